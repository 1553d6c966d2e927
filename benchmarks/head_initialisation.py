"""How a 48 kHz head should begin: held-out loss before the first step and after some, for every initialisation.

python benchmarks/head_initialisation.py [--speech FOLDER] [--epochs 2] [--seeds 3] [--json FILE]

The default are the project's examples and its small base codec; a FOLDER has one folder for each speaker. Only the head
is trained, from the same codec, on the same slices and with the same learning rate. Loss: L1 + magnitude
+ 0.5 log_magnitude at twice the codec's rate. The targets are the recordings resampled, so that a lower loss says
nothing about a band that they do not have; the table says how many have a lower rate.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.corpus import read_utterances
from snac_pipeline.settings import load_settings
from snac_pipeline.steps.codes import base_codec, cache
from snac_pipeline.steps.corpus import scan_corpus, split_corpora
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.runs import Inputs, execute_run, plan_run

EXAMPLES = Path(__file__).parents[1] / "examples"
FORMS = [("random", "depthwise"), ("random", "dense"), ("copy", "dense"), ("interpolate", "depthwise"),
         ("interpolate", "dense")]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=EXAMPLES / "speech", help="recordings, a folder per speaker")
    parser.add_argument("--codec", type=Path, default=EXAMPLES / "base_codec", help="the codec's folder")
    parser.add_argument("--limit", type=int, default=60, help="recordings to train on at most")
    parser.add_argument("--validation", type=int, default=16, help="held-out recordings at most")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-4, help="learning rate of the head; phase 12's by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    print_table(rows)
    if options.json:
        settings = {name: str(value) for name, value in vars(options).items() if name in ("speech", "codec")}
        options.json.write_text(json.dumps({"torch": torch.__version__, **settings, "rows": rows}, indent=2) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each initialisation, with a list of losses over the seeds."""
    inputs, home = prepare(folder, options)
    rows = []
    for init, upsampler in FORMS:
        row: dict[str, Any] = {"init": init, "upsampler": upsampler, "before": [], "after": []}
        for seed in range(options.seeds):
            run = plan_run(recipe(init, upsampler, seed, options), inputs, home)
            result = execute_run(run, "cpu", lambda event: None)
            [rate] = result["baseline"]
            row["before"].append(result["baseline"][rate])
            row["after"].append(result["final"][rate])
            row |= {name: result[name] for name in ("steps", "train_utterances", "val_utterances")}
            row |= {"output_rate": int(rate), "lower_rate": result["targets_below_rate"]}
        rows.append(row)
    return rows


def prepare(folder: Path, options: argparse.Namespace) -> tuple[Inputs, Path]:
    """Scan, split and encode the recordings, as the pipeline does."""
    file = folder / "pipeline.yaml"
    content = {
        "home": "work",
        "corpora": {"speech": {"path": str(options.speech.resolve()), "speaker": "{speaker}/**"}},
        "split": {"val": 0.25},
        "base_codec": {"source": str(options.codec.resolve())},
        "devices": ["cpu"],
        "caching": {"processes": 1, "verify": 0},
    }
    file.write_text(yaml.safe_dump(content))
    settings = load_settings(file)
    scan_corpus(settings, "speech", None, lambda event: None)
    split_corpora(settings)
    cache(settings, ["speech"], False, lambda event: None)
    start, _ = base_codec(settings)
    utterances = read_utterances(settings.home, ["speech"])
    return Inputs(utterances, start, encoder_fingerprint(start), limit=options.limit), settings.home


def recipe(init: str, upsampler: str, seed: int, options: argparse.Namespace) -> Recipe:
    """Phase 11's first stage: the head alone."""
    return Recipe.model_validate(
        {
            "phase": "phase11",
            "heads": {"double": {"init": init, "upsampler": upsampler, "n_ffts": [512, 1024, 2048, 4096]}},
            "stages": [
                {
                    "name": "head",
                    "epochs": options.epochs,
                    "learning_rates": {"double_head": options.rate},
                    "schedule": "constant",
                }
            ],
            "curriculum": [{"epochs": options.epochs, "seconds": 1.0}],
            "batch_size": 4,
            "losses": {"l1": 1.0, "magnitude": 1.0, "log_magnitude": 0.5},
            "validation": {"utterances": options.validation, "seconds": 2.0, "every_epochs": options.epochs},
            "seed": seed,
        }
    )


def print_table(rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    print(
        f"held-out loss at {first['output_rate'] / 1000:g} kHz, {first['val_utterances']} utterances, "
        f"{first['train_utterances']} to train on, {len(first['before'])} seeds: mean (least .. most)\n"
        f"targets are resampled: {first['lower_rate']} recordings have a lower rate\n"
        f"{'init':<13}{'upsampler':<11}{'step 0':>26}{'step ' + str(first['steps']):>26}"
    )
    for row in rows:
        print(f"{row['init']:<13}{row['upsampler']:<11}{_spread(row['before']):>26}{_spread(row['after']):>26}")


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f} .. {max(values):.4f})"


if __name__ == "__main__":
    main()
