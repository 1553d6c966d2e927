"""The one error that users are meant to read: what is wrong, where, and how to mend it.

And the words for what befalls a machine: errors of memory and disk, which any line of code may raise.
"""

import errno
import os


class PipelineError(ValueError):
    """Something a user can mend (a setting, a file, a recipe).

    The message is a complete sentence that names the thing, its place and the mend; the command line prints it
    without a traceback and exits with 1.
    """


class ProcessLost(PipelineError):
    """Another process that this one works with is gone: a consequence, never the cause that a user is to be told."""


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says when a disk or a quota is full, or may not be written any more."""


def trouble(error: BaseException) -> str | None:
    """One sentence for an error of memory or disk; None for any other, which is a mistake of the code.

    torch and what is written in Rust have classes of their own for these; they are known by their words.
    """
    text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if type(error).__name__ == "OutOfMemoryError":  # torch's; this module imports no torch
        return f"the GPU ran out of memory ({text}); use smaller batches or shorter segments, or another GPU"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"the machine ran out of memory ({text}); use smaller batches or fewer processes"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return (
            f"a process that reads audio for the training was lost ({text}): often the machine ran out of memory; use "
            "fewer `loader_workers`, and run it again to go on from the last checkpoint"
        )
    if is_full(error):
        place = getattr(error, "filename", None) or "a file"
        return f"cannot write {place}: {text}; make room there, and run again"
    return None


def is_full(error: BaseException) -> bool:
    """Whether it says that a disk or a quota is full."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return os.strerror(errno.ENOSPC) in str(error)
