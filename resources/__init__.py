"""What assets need and do not make: settings, and child processes to work in. Thin faces of the library."""

from resources.console import console_logger
from resources.pipeline import PipelineResource

__all__ = ["PipelineResource", "console_logger"]
