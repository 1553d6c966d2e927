"""What nothing needs any more in a home folder: found first, deleted only when asked to."""

import contextlib
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.codes.compact import Rewrite, carry_out, plan_collection
from snac_pipeline.corpus import read_quarantine, read_utterances, scan_limit
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import TEMPORARY_PREFIX
from snac_pipeline.settings import Settings
from snac_pipeline.steps.keeping import Old, old_results
from snac_pipeline.training.run_lock import only_one

A_DAY = 24 * 3600.0


def collect_garbage(
    settings: Settings, delete: bool, named: Collection[str] = (), now: float | None = None
) -> dict[str, Any]:
    """Find, and with `delete` remove, what nothing needs: codes, old runs, evaluations, token results, views of codes.

    named: results to keep for reasons that the home does not tell. `old` lists each with its reason and size.
    """
    now = time.time() if now is None else now
    codes = _collect_codes(settings, delete, now)
    found = old_results(settings, named, now, A_DAY)
    sizes = {old.path: _size(old.path) for old in found}
    gone = [old for old in found if not delete or _delete(old)]
    counts = Counter(old.kind for old in gone)
    return {
        "runs": counts["run"],
        "evaluations": counts["evaluation"],
        "tokens": counts["tokens"],
        "views": counts["view"],
        **codes,
        "bytes": codes["bytes"] + sum(sizes[old.path] for old in gone),
        "old": [
            {"path": str(old.path.relative_to(settings.home)), "why": old.why, "bytes": sizes[old.path]} for old in gone
        ],
    }


def _delete(old: Old) -> bool:
    """Whether it went: a run that began to train meanwhile stays. What is renamed is gone for all others at once."""
    with contextlib.ExitStack() as held:
        if old.kind == "run":
            try:
                held.enter_context(only_one(old.path))
            except PipelineError:
                return False
        aside = old.path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
        old.path.rename(aside)
        shutil.rmtree(aside)
    return True


def _collect_codes(settings: Settings, delete: bool, now: float) -> dict[str, Any]:
    """What no corpus of the settings needs.

    These are temporary files and folders that a killed process left more than a day ago, and rows of parts that belong
    to no recording in the manifests or are read from another part. A part of which they are less than half stays as it
    is; one that has others too is written again without them.
    Results are not touched. `unseen` counts what the last scan could not look into, a
    folder without permission say: codes of recordings in there count as needed by none.
    Raises PipelineError after a scan with a limit, when the manifests do not have all recordings.
    """
    home = settings.home
    if settings.limit is not None or any(scan_limit(home, name) for name in settings.corpora):
        raise PipelineError(
            "the manifests are of a scan with a limit, so that nobody can tell which codes the other recordings need; "
            "scan without a limit first"
        )
    temporary = [path for path in home.rglob(f"{TEMPORARY_PREFIX}*") if now - _changed(path, now) > A_DAY]
    needed = read_utterances(home, list(settings.corpora), splits=False).select("digest")
    plans = {folder: plan_collection(folder, needed) for folder in sorted((home / "codes").glob("[!.]*"))}
    parts = [plan for of_folder in plans.values() for plan in of_folder]
    size = sum(map(_size, temporary)) + sum(map(_unneeded_bytes, parts))
    paths = [str(path.relative_to(home)) for path in [*temporary, *(part for plan in parts for part in plan.old)]]
    if delete:
        for path in temporary:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for folder, of_folder in plans.items():
            carry_out(folder, of_folder)
    return {
        "temporary": len(temporary),
        "parts": sum(not plan.written for plan in parts),
        "parts_rewritten": sum(plan.written > 0 for plan in parts),
        "rows": sum(plan.rows - plan.written for plan in parts),
        "bytes": size,
        "unseen": _unseen(settings),
        "deleted": delete,
        "paths": paths,
    }


def _unseen(settings: Settings) -> int:
    aside = read_quarantine(settings.home, list(settings.corpora))
    return aside.filter(pl.col("digest").is_null(), pl.col("stage").is_in(["list", "read"])).height


def _unneeded_bytes(plan: Rewrite) -> int:
    """Size of the rows that are left behind, as far as the sizes of whole parts tell."""
    return plan.bytes * (plan.rows - plan.written) // plan.rows


def _changed(path: Path, now: float) -> float:
    """When; now, where its writer has just now finished with it."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return now


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
