"""Steps one after the other in the run's own process, as in Dagster's in-process executor; Ctrl-C cancels the run.

Most steps of most runs find nothing to do; a process for each would cost seconds. Heavy work has its own.
"""

import contextlib
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Iterator

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.in_process import InProcessExecutor


@dg.executor(name="one_process", config_schema={})
def one_process_executor(init_context: dg.InitExecutorContext) -> "OneProcess":
    return OneProcess()


class OneProcess(InProcessExecutor):
    """Has Dagster take SIGINT for what it is, in a step and between two. It calls a run that nobody terminated through
    it a failure; that is right for SIGTERM, by which machines are shut down, and whose runs are retried.

    It listens from its making on, before the run is told of as begun: Dagster holds a signal back until a step."""

    def __init__(self) -> None:
        super().__init__(RetryMode.ENABLED)
        self.listening = contextlib.ExitStack()
        self.heard = self.listening.enter_context(_heard())
        weakref.finalize(self, self.listening.close)  # of a run that never came to its first step

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        with self.listening:
            try:
                yield from super().execute(plan_context, execution_plan)
            except (KeyboardInterrupt, DagsterExecutionInterruptedError):
                run = plan_context.instance.get_run_by_id(plan_context.run_id)
                if signal.SIGINT in self.heard() and run is not None and run.status == dg.DagsterRunStatus.STARTED:
                    plan_context.instance.report_run_canceling(run, "Ctrl-C was pressed.")
                raise


@contextlib.contextmanager
def _heard() -> Iterator[Callable[[], bytes]]:
    """What tells the numbers of the signals that have arrived; nothing outside of the main thread, which gets none.

    Python writes them down itself, whatever handlers Dagster puts in each other's place meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield bytes
        return
    ours, pythons = socket.socketpair()
    with ours, pythons:
        for end in (ours, pythons):
            end.setblocking(False)

        def heard() -> bytes:
            with contextlib.suppress(BlockingIOError):
                return ours.recv(4096)
            return b""

        before = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        try:
            yield heard
        finally:
            signal.set_wakeup_fd(before)
