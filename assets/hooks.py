"""What happens when a run fails: people are told, through the channels of the settings."""

import socket

import dagster as dg

from snac_pipeline.notifying import FailedRun, notify
from snac_pipeline.settings import NotificationSettings


def failure_notices(settings: NotificationSettings) -> list[dg.SensorDefinition]:
    """A sensor that is on where a channel is named, and absent elsewhere. The daemon evaluates it."""
    if not settings.channels:
        return []

    @dg.run_failure_sensor(
        name="failure_notices",
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Tells {', '.join(settings.channels)} of every run that fails: job, step, the error's sentence.",
    )
    def failure_notices(context: dg.RunFailureSensorContext) -> None:
        for channel, trouble in notify(settings, _failed_run(context)).items():
            if trouble is None:
                context.log.info(f"{channel} was told")
            else:
                context.log.error(f"{channel} could not be told: {trouble}")

    return [failure_notices]


def _failed_run(context: dg.RunFailureSensorContext) -> FailedRun:
    run, steps = context.dagster_run, context.get_step_failure_events()
    step, error = None, context.failure_event.message or "it ended without a word"
    if steps:
        step, data = steps[0].step_key, steps[0].step_failure_data
        explained = data.user_failure_data.description if data.user_failure_data else None
        error = explained or (data.error.message if data.error else error)
    return FailedRun(run.job_name, run.run_id, step, " ".join(error.split()), socket.gethostname())
