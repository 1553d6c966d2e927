"""What the processes that crash do where no torch is needed."""

from pathlib import Path

import pyarrow as pa

from snac_pipeline.files import write_parquet


def write(path: str, rows: int) -> None:
    write_parquet(Path(path), pa.table({"row": list(range(rows))}))
