"""The one error that users are meant to read: what is wrong, where, and how to mend it."""


class PipelineError(ValueError):
    """Something a user can mend (a setting, a file, a recipe).

    The message is a complete sentence that names the thing, its place and the mend; the command line prints it
    without a traceback and exits with 1.
    """


class ProcessLost(PipelineError):
    """Another process that this one works with is gone: a consequence, never the cause that a user is to be told."""
