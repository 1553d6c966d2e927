"""What assets need and do not make: settings, and child processes to work in. Thin faces of the library."""

from resources.console import console_logger
from resources.executor import one_process_executor
from resources.pipeline import PipelineResource

__all__ = ["PipelineResource", "console_logger", "one_process_executor"]
