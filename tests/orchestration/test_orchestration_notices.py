"""People are told of a failed run, by real servers on this machine; secrets are nowhere; a channel that fails is told.

The sensor is evaluated here as the daemon evaluates it; the daemon itself does in test_orchestration_stopping.py.
"""

import base64
import email
import email.policy
import json

import dagster as dg
import pytest
from made_listeners import MailServer, Webhook, listening
from made_server import everything_in

from snac_pipeline.definitions import build_defs
from snac_pipeline.errors import PipelineError
from snac_pipeline.notifying import FailedRun, notify
from snac_pipeline.settings import NotificationSettings, load_settings

SECRET = "hooked-on-Phonics-4711"
EVERYBODY = {
    "webhook": "TEST_WEBHOOK",
    "slack": "TEST_SLACK",
    "email": {"server": "TEST_SMTP", "sender": "TEST_FROM", "recipients": "TEST_TO"},
}
FAILED = FailedRun("train_phase10", "1234", "decoder_24khz", "the <disk> & all is full", "here")


@pytest.fixture
def listeners(monkeypatch):
    """A webhook that is Slack's too, and a mail server, with their addresses in the environment."""
    with listening(Webhook()) as webhook, listening(MailServer()) as mail:
        monkeypatch.setenv("TEST_WEBHOOK", f"{webhook.address}/hook/{SECRET}")
        monkeypatch.setenv("TEST_SLACK", f"{webhook.address}/services/{SECRET}")
        monkeypatch.setenv("TEST_SMTP", f"smtp://robot:{SECRET}%21@127.0.0.1:{mail.port}")
        monkeypatch.setenv("TEST_FROM", "robot@here.example")
        monkeypatch.setenv("TEST_TO", "ann@here.example, bob@here.example")
        yield webhook, mail


def settings_of(**content) -> NotificationSettings:
    return NotificationSettings.model_validate(content)


def failing_run(project) -> str:
    """The id of a run whose step fails before any work: nothing is scanned yet."""
    return project.run("train_phase10", must_succeed=False)


def evaluate_sensor(project, run_id: str) -> dg.SensorResult | None:
    """Evaluate the sensor for a run that failed."""
    sensor = build_defs(project.settings_file).get_sensor_def("failure_notices")
    with project.instance() as instance:
        run = instance.get_run_by_id(run_id)
        [event] = [entry.dagster_event for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)]
        context = dg.build_run_status_sensor_context("failure_notices", event, instance, run).for_run_failure()
        return sensor(context)


def test_every_channel_gets_the_job_the_step_and_the_sentence_of_a_run_that_failed(project, listeners):
    webhook, mail = listeners
    project.change_settings(notifications=EVERYBODY)
    run = failing_run(project)
    evaluate_sensor(project, run)

    (path, posted), (slack_path, slack) = webhook.received
    assert (path, slack_path) == (f"/hook/{SECRET}", f"/services/{SECRET}")
    assert {name: posted[name] for name in ("event", "job", "run_id", "step")} == {
        "event": "run_failed", "job": "train_phase10", "run_id": run, "step": "decoder_24khz",
    }  # fmt: skip
    assert posted["error"].startswith("no-base-codec-needed is neither a folder")
    assert list(slack) == ["text"] and slack["text"].startswith(
        "train_phase10 failed in decoder_24khz: no-base-codec-needed is"
    )
    [message] = [email.message_from_string(text, policy=email.policy.default) for text in mail.messages]
    assert message["Subject"] == "train_phase10 failed in decoder_24khz"
    assert message["To"] == "ann@here.example, bob@here.example"
    assert "no-base-codec-needed" in message.get_content()
    assert base64.b64decode(mail.logins[0]) == f"\0robot\0{SECRET}!".encode()
    assert SECRET.encode() not in everything_in(project.folder)


def test_without_a_channel_there_is_no_sensor_and_with_one_it_is_on(project):
    def sensors() -> list[dg.SensorDefinition]:
        return [sensor for sensor in build_defs(project.settings_file).sensors if sensor.name == "failure_notices"]

    assert not sensors()
    project.change_settings(notifications={"slack": "SLACK_WEBHOOK"})
    [sensor] = sensors()
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING


def test_what_slack_takes_for_markup_is_told_as_it_is(listeners):
    webhook, _ = listeners
    assert notify(settings_of(slack="TEST_SLACK"), FAILED) == {"slack": None}
    assert "the &lt;disk&gt; &amp; all is full" in webhook.received[0][1]["text"]


@pytest.mark.parametrize(
    ("variable", "value", "channel", "words"),
    [
        ("TEST_WEBHOOK", f"http://127.0.0.1:1/{SECRET}", "webhook", "Connection refused"),
        ("TEST_WEBHOOK", f"file:///etc/{SECRET}", "webhook", "$TEST_WEBHOOK holds no address; it begins with https://"),
        ("TEST_WEBHOOK", f"http://[{SECRET}/", "webhook", "ValueError"),
        ("TEST_SLACK", "", "slack", "the environment variable TEST_SLACK is not set"),
        ("TEST_SMTP", f"smtp://robot:{SECRET}@127.0.0.1:1", "email", "Connection refused"),
        ("TEST_SMTP", SECRET, "email", "$TEST_SMTP holds no mail server"),
    ],
)
def test_a_channel_that_fails_is_told_without_its_secret_and_the_others_are_told(
    listeners, monkeypatch, variable, value, channel, words
):
    monkeypatch.setenv(variable, value)
    told = notify(settings_of(**EVERYBODY), FAILED)
    assert words in told.pop(channel)
    assert list(told.values()) == [None, None]
    assert SECRET not in json.dumps(told) + words


def test_a_server_that_refuses_is_told_by_its_number(monkeypatch):
    with listening(Webhook(answer=403)) as webhook, listening(MailServer(takes_logins=False)) as mail:
        monkeypatch.setenv("TEST_WEBHOOK", f"{webhook.address}/{SECRET}")
        monkeypatch.setenv("TEST_SMTP", f"smtp://robot:{SECRET}@127.0.0.1:{mail.port}")
        monkeypatch.setenv("TEST_FROM", "robot@here.example")
        monkeypatch.setenv("TEST_TO", "ann@here.example")
        told = notify(settings_of(webhook="TEST_WEBHOOK", email=EVERYBODY["email"]), FAILED)
    assert told == {"webhook": "the server answered 403", "email": "the mail server answered 535"}


def test_a_sensor_whose_channels_all_fail_still_leaves_the_runs_own_error(project, monkeypatch):
    for variable in ("TEST_WEBHOOK", "TEST_SLACK"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:1/{SECRET}")
    project.change_settings(notifications={"webhook": "TEST_WEBHOOK", "slack": "TEST_SLACK"})
    run = failing_run(project)
    evaluate_sensor(project, run)
    assert "no-base-codec-needed" in project.log(run)
    assert SECRET.encode() not in everything_in(project.folder)


@pytest.mark.parametrize(
    "content",
    [
        {"webhook": f"https://hooks.example/{SECRET}"},
        {"slack": f"https://hooks.slack.com/services/{SECRET}"},
        {"email": f"smtp://robot:{SECRET}@mail.example"},
        {"email": {"server": f"smtp://robot:{SECRET}@mail.example", "sender": "A", "recipients": "B"}},
        {"email": {"server": "A", "sender": f"{SECRET}@here.example", "recipients": "B"}},
        {"webhook": [SECRET]},
        f"https://hooks.example/{SECRET}",
    ],
    ids=str,
)
def test_an_address_in_the_settings_is_refused_without_repeating_it(project, content):
    project.change_settings(notifications=content)
    with pytest.raises(PipelineError, match="name of an environment variable") as refused:
        load_settings(project.settings_file)
    assert SECRET not in str(refused.value)
    assert str(project.settings_file) in str(refused.value)


def test_half_an_email_is_refused(project):
    project.change_settings(notifications={"email": {"server": "SMTP"}})
    with pytest.raises(PipelineError, match="e-mail needs all of server, sender and recipients"):
        load_settings(project.settings_file)
