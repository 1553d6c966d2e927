"""What nothing needs any more in a home folder: found first, deleted only when asked to."""

import shutil
import time
from pathlib import Path
from typing import Any

from snac_pipeline.codes.parts import cached_digests, part_files
from snac_pipeline.corpus import read_utterances, scan_limit
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import TEMPORARY_PREFIX
from snac_pipeline.settings import Settings

A_DAY = 24 * 3600.0


def collect_garbage(settings: Settings, delete: bool, now: float | None = None) -> dict[str, Any]:
    """Find, and with `delete` remove, what no corpus of the settings needs.

    These are temporary files and folders that a killed process left more than a day ago, and parts of which every row
    either belongs to no recording in the manifests or is read from another part. Parts with one needed row stay whole.
    Runs, evaluations and training views are never touched.
    Raises PipelineError after a scan with a limit, when the manifests do not have all recordings.
    """
    now = time.time() if now is None else now
    home = settings.home
    if settings.limit is not None or any(scan_limit(home, name) for name in settings.corpora):
        raise PipelineError(
            "the manifests are of a scan with a limit, so that nobody can tell which codes the other recordings need; "
            "scan without a limit first"
        )
    found = {
        "temporary": [p for p in home.rglob(f"{TEMPORARY_PREFIX}*") if now - p.stat().st_mtime > A_DAY],
        "parts": _unneeded_parts(settings),
    }
    sizes = {kind: sum(_size(path) for path in paths) for kind, paths in found.items()}
    if delete:
        for path in (path for paths in found.values() for path in paths):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return {
        **{kind: len(paths) for kind, paths in found.items()},
        "bytes": sum(sizes.values()),
        "deleted": delete,
        "paths": [str(path.relative_to(home)) for paths in found.values() for path in paths],
    }


def _unneeded_parts(settings: Settings) -> list[Path]:
    needed = set(read_utterances(settings.home, list(settings.corpora), splits=False)["digest"])
    unneeded = []
    for folder in sorted((settings.home / "codes").glob("[!.]*")):
        read_from = {part for digest, part in cached_digests(folder).items() if digest in needed}
        unneeded += [part for part in part_files(folder) if part not in read_from]
    return unneeded


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
