"""Whether the phases do on real speech what they are for: held-out loss against where they start, over several seeds.

python benchmarks/phases.py [--speech FOLDER] [--codec FOLDER] [--seeds 3] [--epochs 2] [--json FILE]

A small codec is first trained from random weights on some speakers (recipes/scratch.yaml, shortened; some minutes), or
taken from a folder. Then each phase is trained from it on the other speakers, with the same slices, equally many steps
and, at its rate, the same loss. At 48 kHz phase 10 is measured through exact interpolation, which is what its output
resampled is. Of recordings with less band than 48 kHz has, the loss sees what is below their cut-off (`lowpassed`), so
that nothing is claimed above it.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
import yaml

from snac_pipeline.codec import SNAC
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.corpus import read_utterances
from snac_pipeline.settings import load_settings
from snac_pipeline.steps.codes import base_codec, cache
from snac_pipeline.steps.corpus import scan_corpus, split_corpora
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.runs import Inputs, execute_run, plan_run

REPOSITORY = Path(__file__).parents[1]
SPEECH = REPOSITORY.parent / "shared" / "speech" / "librispeech"
LOSSES = {"l1": 0.0, "magnitude": 1.0, "mel": 1.0}
NATIVE, DOUBLE = {"n_ffts": [64, 256, 1024]}, {"n_ffts": [128, 512, 2048]}
PHASES: dict[str, dict[str, Any]] = {
    "phase10": {"heads": {"native": NATIVE}, "rates": {"trunk": 5e-4, "native_head": 5e-4}},
    "phase11": {"heads": {"double": DOUBLE}, "rates": {"trunk": 5e-4, "native_head": 5e-4, "double_head": 1e-4}},
    "phase12": {
        "heads": {"native": {**NATIVE, "weight": 0.3}, "double": DOUBLE},
        "rates": {"trunk": 5e-4, "native_head": 5e-4, "double_head": 1e-4},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="recordings, a folder per speaker")
    parser.add_argument("--codec", type=Path, help="start from this codec instead of training one")
    parser.add_argument("--codec-files", type=int, default=125, help="recordings that the codec is, or was, trained on")
    parser.add_argument("--codec-epochs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2, help="of each phase")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--validation", type=int, default=16, help="held-out recordings at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if not options.speech.is_dir():
        parser.error(f"{options.speech} is no folder")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options)
    print_table(figures)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, **figures}, indent=2) + "\n")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The codec's training time, and for every seed the held-out losses of each phase by rate."""
    began = time.monotonic()
    codec = options.codec or train_codec(folder / "codec", options)
    codec_seconds = time.monotonic() - began
    inputs, home = prepare(folder / "phases", codec, recordings_of_codec(folder / "known", options), options)
    seeds = [one_seed(seed, inputs, home, options) for seed in range(options.seeds)]
    return {"codec_seconds": codec_seconds, "seeds": seeds}


def one_seed(seed: int, inputs: Inputs, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Held-out losses before training and after each phase: by rate in Hz."""
    results = {
        phase: execute_run(plan_run(recipe(phase, seed, options), inputs, home), "cpu", tell) for phase in PHASES
    }
    first = SNAC.from_pretrained(results["phase10"]["model"])
    # Before its first step the 48 kHz head is exact interpolation; one utterance is the least that can be trained on.
    resampled = Inputs(inputs.utterances, first, inputs.codes_fingerprint, limit=1)
    through_head = execute_run(plan_run(recipe("phase11", seed, options), resampled, home), "cpu", tell)
    double = results["phase11"]
    return {
        "before": {**results["phase10"]["baseline"], **double["baseline"]},
        "phase10": {**results["phase10"]["final"], **through_head["baseline"]},
        "phase11": double["final"],
        "phase12": results["phase12"]["final"],
        "steps": [result["steps"] for result in results.values()],
        **{name: double[name] for name in ("train_utterances", "val_utterances")},
    }


def recipe(phase: str, seed: int, options: argparse.Namespace) -> Recipe:
    """One stage, segments of one second."""
    return Recipe.model_validate(
        {
            "phase": phase,
            "heads": PHASES[phase]["heads"],
            "stages": [
                {
                    "name": "main",
                    "epochs": options.epochs,
                    "learning_rates": PHASES[phase]["rates"],
                    "schedule": "cosine",
                    "final_fraction": 0.1,
                }
            ],
            "curriculum": [{"epochs": options.epochs, "seconds": 1.0}],
            "batch_size": options.batch,
            "losses": LOSSES,
            "targets": "lowpassed" if "double" in PHASES[phase]["heads"] else "resampled",
            "validation": {"utterances": options.validation, "seconds": 4.0, "every_epochs": options.epochs},
            "seed": seed,
        }
    )


def train_codec(folder: Path, options: argparse.Namespace) -> Path:
    """A codec from random weights: recipes/scratch.yaml with fewer epochs, on the first recordings of the folder."""
    content = yaml.safe_load((REPOSITORY / "recipes" / "scratch.yaml").read_text())
    content["stages"][0]["epochs"] = content["curriculum"][0]["epochs"] = options.codec_epochs
    content["validation"] |= {"every_epochs": options.codec_epochs}
    settings = settings_of(folder, REPOSITORY / "examples" / "base_codec", options, limit=options.codec_files)
    utterances = read_utterances(settings.home, ["speech"])
    run = plan_run(Recipe.model_validate(content), Inputs(utterances), settings.home)
    return Path(execute_run(run, "cpu", tell)["model"])


def recordings_of_codec(folder: Path, options: argparse.Namespace) -> pl.Series:
    """Digests of what the codec was trained on."""
    if not options.codec_files:
        return pl.Series([], dtype=pl.String)
    settings = settings_of(folder, REPOSITORY / "examples" / "base_codec", options, limit=options.codec_files)
    return read_utterances(settings.home, ["speech"])["digest"]


def prepare(folder: Path, codec: Path, known: pl.Series, options: argparse.Namespace) -> tuple[Inputs, Path]:
    """Scan, split and encode the recordings but the `known` ones, as the pipeline does."""
    settings = settings_of(folder, codec, options)
    cache(settings, ["speech"], False, tell)
    start, _ = base_codec(settings)
    utterances = read_utterances(settings.home, ["speech"]).filter(~pl.col("digest").is_in(known.implode()))
    return Inputs(utterances, start, encoder_fingerprint(start)), settings.home


def settings_of(folder: Path, codec: Path, options: argparse.Namespace, limit: int | None = None):
    """A home whose recordings are scanned and split."""
    folder.mkdir()
    content = {
        "home": "work",
        "corpora": {"speech": {"path": str(options.speech.resolve()), "speaker": "{speaker}/**"}},
        "split": {"val": 0.15},
        "base_codec": {"source": str(codec.resolve())},
        "devices": ["cpu"],
        "limit": limit,
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(content))
    settings = load_settings(folder / "pipeline.yaml")
    scan_corpus(settings, "speech", limit, lambda event: None)
    split_corpora(settings)
    return settings


def tell(event: dict[str, Any]) -> None:
    """Show what takes minutes."""
    if "message" in event:
        print(event["message"], flush=True)


def print_table(figures: dict[str, Any]) -> None:
    seeds = figures["seeds"]
    first = seeds[0]
    print(
        f"\nheld-out loss, {first['val_utterances']} utterances, {first['train_utterances']} to train on, "
        f"{len(seeds)} seeds, {first['steps'][0]} steps each: mean (least .. most)\n"
        f"codec trained in {figures['codec_seconds'] / 60:.1f} min; at 48 kHz up to each recording's cut-off"
    )
    for rate in sorted(first["before"], key=int):
        print(f"{int(rate) / 1000:g} kHz")
        for name in ("before", *PHASES):
            values = [seed[name][rate] for seed in seeds if rate in seed[name]]
            if not values:
                continue
            changes = [value / seed["before"][rate] - 1 for value, seed in zip(values, seeds, strict=True)]
            behind = sum(value < seed["phase10"][rate] for value, seed in zip(values, seeds, strict=True))
            spread = f"{statistics.mean(values):.4f} ({min(values):.4f} .. {max(values):.4f})"
            change = f"{100 * statistics.mean(changes):+.1f} % ({100 * min(changes):+.1f} .. {100 * max(changes):+.1f})"
            better = f"better than phase 10 in {behind} of {len(values)}" if name in ("phase11", "phase12") else ""
            print(f"  {name:<10}{spread:>30}{'' if name == 'before' else change:>28}   {better}")


if __name__ == "__main__":
    main()
