"""Whether bfloat16 activations train as float32 does: loss curves of both, beside what another seed changes.

python benchmarks/loss_curves.py [--codec FOLDER] [--steps 500] [--seeds 3] [--device cpu] [--json FILE]

Phase 10's steps by the library's own loop, on recordings below --speech, from --codec, or from a thin codec with random
weights. Every seed (order of slices, noise) is trained in both precisions. Curves are means over 25 steps. The distance
of two curves is the mean over time of |a - b| / b; the precisions agree within seed noise where a seed's two curves are
no farther from each other than float32 curves of different seeds.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from training_step import FILES, cached_speech

from snac_pipeline.codec import SNAC, CodecSpec
from snac_pipeline.training.compiling import Synthesis, choose_kernels
from snac_pipeline.training.data import Reader
from snac_pipeline.training.loop import steps_of
from snac_pipeline.training.model import build_model, initialise
from snac_pipeline.training.plan import Plan, Speech
from snac_pipeline.training.ranks import ALONE
from snac_pipeline.training.readings import Readings
from snac_pipeline.training.recipe import Recipe
from snac_pipeline.training.state import Training

REPOSITORY = Path(__file__).parents[1]
THIN = {
    "sampling_rate": 8000, "encoder_dim": 4, "encoder_rates": [4, 4, 4], "decoder_dim": 32, "decoder_rates": [4, 4, 4],
    "attn_window_size": None, "codebook_size": 32, "codebook_dim": 4, "vq_strides": [4, 2, 1],
}  # fmt: skip
PRECISIONS = ("fp32", "bf16")
SMOOTHED = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--codec", type=Path, help="folder of the codec to start from; none: a thin one, random")
    parser.add_argument("--speech", type=Path, default=REPOSITORY / "examples" / "speech")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a slice")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.seeds < 2 or options.steps < 2 * SMOOTHED:
        parser.error(f"two seeds and {2 * SMOOTHED} steps at least")
    files = sorted(file for kind in ("flac", "wav") for file in options.speech.rglob(f"*.{kind}"))[:FILES]
    with tempfile.TemporaryDirectory() as folder:
        codec = options.codec or thin_codec(Path(folder) / "codec")
        speech = cached_speech(files, codec, Path(folder))
        curves = {
            precision: [curve(speech, codec, precision, seed, options) for seed in range(options.seeds)]
            for precision in PRECISIONS
        }
    smooth = {precision: [smoothed(one) for one in curves[precision]] for precision in PRECISIONS}
    precisions = [distance(bf16, fp32) for fp32, bf16 in zip(smooth["fp32"], smooth["bf16"], strict=True)]
    seeds = [distance(a, b) for a, b in itertools.combinations(smooth["fp32"], 2)]
    ends = {precision: [float(one[-1]) for one in smooth[precision]] for precision in PRECISIONS}
    print(f"{'':32}{'mean':>10}{'least':>10}{'most':>10}")
    for name, values in (
        ("bf16 from fp32, same seed", precisions),
        ("fp32 from fp32, another seed", seeds),
        *((f"last {SMOOTHED} steps' loss, {precision}", ends[precision]) for precision in PRECISIONS),
    ):
        print(f"{name:32}{np.mean(values):>10.4f}{min(values):>10.4f}{max(values):>10.4f}")
    print(f"within seed noise: {'yes' if np.mean(precisions) <= np.mean(seeds) else 'no'}")
    if options.json:
        facts = {"torch": torch.__version__, "device": options.device, "curves": curves}
        options.json.write_text(json.dumps({**facts, "precisions": precisions, "seeds": seeds}, indent=2) + "\n")


def thin_codec(folder: Path) -> Path:
    """A small codec that lets sound through."""
    torch.manual_seed(0)
    model = SNAC(CodecSpec.from_dict(THIN)).eval()
    initialise(model)
    return model.save_pretrained(folder)


def curve(speech: Speech, codec: Path, precision: str, seed: int, options: argparse.Namespace) -> list[float]:
    """The loss of every step."""
    recipe = recipe_of(precision, seed, epochs=options.steps, options=options)
    device = torch.device(options.device)
    compiled = choose_kernels(recipe, device, lambda event: None)
    model = build_model(recipe, SNAC.from_pretrained(codec)).to(device).train()
    training, synthesis = Training(recipe, model, ALONE), Synthesis(model, compiled)
    plan, readings, losses = Plan(recipe, model, speech), Readings(Path(), speech), []
    torch.manual_seed(seed)
    reader = Reader(speech.dataset, plan.batches_from(0, 0), ALONE, 0)
    for epoch in itertools.count():
        training.progress.epoch, training.progress.epoch_step = epoch, 0
        for taken in steps_of(epoch, plan, training, reader, synthesis):
            readings.note(taken)
            if training.progress.step == options.steps:
                break
        losses += [figures["loss"] for figures in readings.read()]
        if len(losses) == options.steps:
            return losses
    raise AssertionError("epochs do not end")


def recipe_of(precision: str, seed: int, epochs: int, options: argparse.Namespace) -> Recipe:
    """Phase 10 at one length and a constant rate, as many epochs as are needed."""
    rates = {"trunk": options.rate, "native_head": options.rate}
    return Recipe.model_validate(
        {
            "phase": "phase10",
            "seed": seed,
            "precision": precision,
            "heads": {"native": {"n_ffts": [256, 512, 1024]}},
            "stages": [{"name": "main", "epochs": epochs, "learning_rates": rates, "schedule": "constant"}],
            "curriculum": [{"epochs": epochs, "seconds": options.seconds}],
            "batch_size": options.batch,
            "losses": {"l1": 1.0, "magnitude": 1.0},
            "compile": options.device != "cpu",
        }
    )


def smoothed(losses: list[float]) -> np.ndarray:
    """Means of consecutive stretches."""
    whole = len(losses) // SMOOTHED * SMOOTHED
    return np.reshape(losses[:whole], (-1, SMOOTHED)).mean(axis=1)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean relative difference of two curves."""
    return float(np.mean(np.abs(ours - theirs) / theirs))


if __name__ == "__main__":
    main()
