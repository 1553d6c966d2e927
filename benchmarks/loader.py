"""Training segments that one core reads in a second: their codes alone, and with their audio at one or two rates.

python benchmarks/loader.py [--speech FOLDER] [--seconds 1 2 4] [--json FILE]

What a loader worker does for every slice of an epoch's plan, in this process, with the context that decoding needs:
codes from the memory-mapped view, audio by a partial read and resampling.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
from training_step import FILES, SPEECH

CODEC = Path(__file__).parents[1] / "examples" / "base_codec"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="a folder with audio files somewhere below it")
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0, 2.0, 4.0], help="lengths of segments")
    parser.add_argument("--segments", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    files = sorted(file for kind in ("flac", "wav") for file in options.speech.rglob(f"*.{kind}"))[:FILES]
    if not files:
        parser.error(f"{options.speech} has no flac or wav files")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(files, Path(folder), options)
    kinds = list(rows[0]["rates"])
    print(
        f"{'segments of':14}" + "".join(f"{kind:>22}" for kind in kinds) + "   segments a second of CPU time, one core"
    )
    for row in rows:
        print(f"{row['seconds']:g} s{'':10}" + "".join(f"{max(row['rates'][kind]):>22.0f}" for kind in kinds))
    if options.json:
        options.json.write_text(json.dumps({"load": os.getloadavg(), "rows": rows}, indent=2) + "\n")


def measure(files: list[Path], folder: Path, options: argparse.Namespace) -> list[dict]:
    """For each length the rates of every round, by what is read."""
    from training_step import cached_speech

    from snac_pipeline.codes.view import CodesView
    from snac_pipeline.training.slices import plan_epoch

    speech = {}
    for name, doubled in (("24 kHz", False), ("24 and 48 kHz", True)):
        (folder / name).mkdir()
        speech[name] = cached_speech(files, CODEC, folder / name, doubled)
    first = speech["24 kHz"]
    spec, view = first.dataset.spec, CodesView(first.dataset.view_path)
    rows = []
    for seconds in options.seconds:
        segment = spec.segment_frames(seconds)
        plan = [
            one
            for epoch in range(1 + options.segments * segment // int(first.frames.sum()))
            for [one] in plan_epoch(first.frames, segment, spec.decode_context, 1, spec.alignment, 0, epoch)
        ][: options.segments]
        reads = {"codes": lambda item: view.codes(item.row, item.window_start, item.window)}
        reads |= {f"codes, {name} audio": one.dataset.__getitem__ for name, one in speech.items()}
        rates: dict[str, list[float]] = {kind: [] for kind in reads}
        for _ in range(options.rounds):
            for kind, read in reads.items():
                began = time.process_time()
                for item in plan:
                    read(item)
                rates[kind].append(len(plan) / (time.process_time() - began))
        rows.append({"seconds": seconds, "segments": len(plan), "rates": rates})
    return rows


if __name__ == "__main__":
    main()
