"""Work for worker processes that do without torch: parts are names, results are files."""

import os
import time
from pathlib import Path

from snac_pipeline.files import atomic_file


def write_it(folder: Path, part: str, device: str) -> tuple[str, str, int]:
    """Commit a file named `part`; a name that begins with "slow" takes a minute inside of the write."""
    with atomic_file(folder / part) as temporary:
        temporary.write_text(part)
        if part.startswith("slow"):
            (folder / f"{os.getpid()}.pid").touch()
            time.sleep(60)
        if part.startswith("wrong"):
            raise RuntimeError(f"{part} cannot be done")
    time.sleep(0.05)
    return part, device, os.getpid()
