"""The utterances that later steps work on: every distinct recording once, with its file and its split."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from snac_pipeline.corpus.manifest import read_manifest, read_quarantine
from snac_pipeline.corpus.placing import distinct
from snac_pipeline.corpus.split import read_splits


def read_utterances(home: Path, corpora: Sequence[str], *, splits: bool = True) -> pl.DataFrame:
    """One row per distinct digest of the named corpora, sorted by digest.

    Columns: those of the manifest, `file` (absolute path or URL for `read_audio`; of copies the first in path order)
    and, with `splits`, `group` and `split` ("train", "val"); files that the split set aside are then left out. Raises
    PipelineError naming the step to run when an input is missing.
    """
    files = read_manifest(home, corpora).sort("corpus", "path")
    if not splits:
        return distinct(files).sort("digest")
    linking = read_quarantine(home, corpora).filter(pl.col("stage") == "split").select("corpus", "path")
    files = distinct(files.join(linking, on=["corpus", "path"], how="anti", maintain_order="left"))
    return files.join(read_splits(home).select("digest", "group", "split"), on="digest").sort("digest")
