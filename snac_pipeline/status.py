"""What a home folder holds, read from its files: corpora, codes, runs."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_json
from snac_pipeline.settings import Settings


def home_status(settings: Settings) -> dict[str, Any]:
    """Rows of the manifests, splits and parts, and every run with how far it is."""
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
    }


def _rows(file: Path) -> int:
    try:
        return pq.read_metadata(file).num_rows
    except (pa.ArrowException, OSError) as error:
        raise PipelineError(f"{file} is damaged: {error}; delete it and run the step that writes it again") from error


def _run(folder: Path) -> dict[str, Any]:
    if (folder / "result.json").exists():
        result = read_json(folder / "result.json")
        return {"state": "finished", **{key: result[key] for key in ("steps", "baseline", "final", "improvement")}}
    steps = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    return {"state": "begun", "last_checkpoint": steps[-1] if steps else None}
