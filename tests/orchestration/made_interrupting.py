"""The project's definitions with a logger that sends $SIGNAL to its own process at the first event of the type $AT.

Dagster logs the begin of the run, and the end of a step, outside of the steps: that is where the signal arrives.
"""

import logging
import os
import signal

import dagster as dg

from snac_pipeline.definitions import build_defs


class Sends(logging.Handler):
    sent = False

    def emit(self, record: logging.LogRecord) -> None:
        event = record.dagster_meta["dagster_event"]
        if event is not None and event.event_type.name == os.environ["AT"] and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.Signals[os.environ["SIGNAL"]])


@dg.logger
def sending(init_context: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("sending", level=logging.DEBUG)
    logger.addHandler(Sends())
    return logger


def with_sending(usual: dg.Definitions) -> dg.Definitions:
    return dg.Definitions(
        assets=usual.assets,
        jobs=usual.jobs,
        resources=usual.resources,
        executor=usual.executor,
        loggers={"console": sending},
    )


defs = with_sending(build_defs())
