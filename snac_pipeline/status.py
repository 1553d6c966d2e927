"""What a home folder holds, read from its files: corpora, codes, runs and how far they are."""

import time
from pathlib import Path
from typing import Any

from snac_pipeline.files import read_footer, read_json
from snac_pipeline.settings import Settings
from snac_pipeline.training.run_lock import is_running


def home_status(settings: Settings) -> dict[str, Any]:
    """Rows of the manifests, splits and parts, every run with how far it is, and what the newest evaluation says."""
    home = settings.home
    return {
        "home": str(home),
        "manifest": {file.stem: _rows(file) for file in sorted((home / "manifest").glob("*.parquet"))},
        "quarantine": {file.stem: _rows(file) for file in sorted((home / "quarantine").glob("*.parquet"))},
        "codes": {
            folder.name: sum(_rows(part) for part in folder.glob("part-*.parquet"))
            for folder in sorted((home / "codes").glob("*"))
        },
        "runs": {folder.name: _run(folder) for folder in sorted((home / "runs").glob("*-*"))},
        "evaluation": _newest_evaluation(home),
    }


def run_line(run: dict[str, Any]) -> str:
    """A run of `home_status` in a line for people."""
    if run["state"] == "finished":
        gains = ", ".join(f"{rate} Hz {gain:+.1%}" for rate, gain in run["improvement"].items())
        return f"finished, {run['steps']} steps, held-out loss improved: {gains}"
    words = [run["state"]]
    if "step" in run:
        words += [f"epoch {run['epoch']} of {run['epochs']}", f"step {run['step']} of {run['steps']}"]
        words.append(f"loss {run['loss']:.4f}")
    if run["state"] == "running" and "step" in run:
        left = max(0.0, run["seconds_left"] - run["seconds_since"])
        memory = run["gpu_memory_bytes"]
        words += [
            f"{left / 60:.0f} min left", f"PID {run['pid']} on {run['host']}",
            run["device"] + (f" with {memory / 2**30:.1f} GiB" if memory else ""),
        ]  # fmt: skip
    elif run["state"] == "begun":
        words.append(f"to be resumed from {run['last_checkpoint']}" if run["last_checkpoint"] else "no checkpoint yet")
    return ", ".join(words)


def _newest_evaluation(home: Path) -> dict[str, Any] | None:
    """The last that was finished, or reported on again: its folder, the metric it goes by, and its claims."""
    files = sorted((home / "evaluation").glob("*/result.json"), key=lambda file: file.stat().st_mtime)
    if not files:
        return None
    result = read_json(files[-1])
    told = ("utterances", "headline_metric", "headlines")
    return {"folder": files[-1].parent.name, **{name: result[name] for name in told}}


def _rows(file: Path) -> int:
    _, footer = read_footer(file)
    return int(footer.num_rows)


def _run(folder: Path) -> dict[str, Any]:
    """finished: has a result; running: a process of this machine is at it; begun: it can be gone on with."""
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json")
        return {"state": "finished", **{key: result[key] for key in ("steps", "baseline", "final", "improvement")}}
    steps = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    told = read_json(folder / "progress.json") if (folder / "progress.json").exists() else {}
    since = {"seconds_since": time.time() - told["updated"]} if told else {}
    state = "running" if is_running(folder) else "begun"
    return {"state": state, "last_checkpoint": steps[-1] if steps else None, **told, **since}
