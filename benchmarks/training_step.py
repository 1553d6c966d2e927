"""How many seconds of audio a second a training step takes on the CPU, with and without fused kernels.

python benchmarks/training_step.py [--threads 1] [--steps 5]        prints a table and one line of JSON
"""

import argparse
import json
import time
from pathlib import Path

import torch

from snac_pipeline.codec import SNAC, CodecSpec, Noise, kernels

BASE = Path(__file__).parents[1] / "examples" / "base_codec" / "config.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=BASE, help="config.json of the codec")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = SNAC(CodecSpec.from_file(options.config))
    rows = {"eager": measure(model, options)}
    kernels.fuse_kernels()
    rows["fused"] = measure(model, options)
    print(f"{'':8}{'whole codec':>14}{'decoder only':>14}   seconds of audio a second, {options.threads} threads")
    for name, (whole, decoder) in rows.items():
        print(f"{name:8}{whole:>14.1f}{decoder:>14.1f}")
    print(
        json.dumps({"torch": torch.__version__, **vars(options), "config": options.config.parent.name, "rates": rows})
    )


def measure(model: SNAC, options: argparse.Namespace) -> tuple[float, float]:
    """Forward and backward of encoder, quantizer and decoder, and of the decoder alone."""
    spec = model.spec
    frames = spec.segment_frames(options.seconds)
    audio = 0.1 * torch.randn(options.batch, 1, spec.samples(frames))
    with torch.no_grad():
        fixed = model.quantize(audio).latents_BCL

    def step(latents: torch.Tensor) -> None:
        output = model.synthesize(latents, Noise(), (spec.sampling_rate,))[spec.sampling_rate]
        (output - audio).abs().mean().backward()
        model.zero_grad(set_to_none=True)

    seconds = options.batch * frames * spec.frame_seconds
    whole = _rate(lambda: step(model.quantize(audio).latents_BCL), options.steps)
    return seconds * whole, seconds * _rate(lambda: step(fixed), options.steps)


def _rate(work, steps: int) -> float:
    """Calls a second, the first left out; the median of `steps`."""
    work()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1 / sorted(times)[len(times) // 2]


if __name__ == "__main__":
    main()
