"""Seconds of speech that training takes in a second: ours against a straightforward loop over the PyPI package `snac`.

python benchmarks/training_step.py [--speech FOLDER] [--seconds 2] [--batch 6] [--steps 8] [--rounds 3] [--json FILE]

With --device cuda (or cpu), training_on_device.py on codes made there: the step at 1, 2, 3 and 4 s in bfloat16 and
float32 beside the straightforward one, memory, share of the copy bandwidth, and what phase 10 would take.

Phase 10's step with its loss (L1 and magnitudes of three windows), clipping and AdamW, from the same codec. The loop is
as one writes it down: whole files are read and resampled, a slice of each is cut, encoded and decoded, eagerly. Ours is
the step of the library's loop with its data: cached codes, partial reads, fused kernels; it decodes context beside
every segment, which is not counted. First row: the decoder's step alone, on one batch of codes, without context. Every
way is a process with the threads asked for; rounds alternate, the best of each counts; first steps, which compile, are
left out.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

REPOSITORY = Path(__file__).parents[1]
SPEECH = REPOSITORY.parent / "shared" / "speech" / "librispeech"
WAYS = ("decoder snac", "decoder ours", "whole snac", "whole ours")
N_FFTS = [1024, 2048, 4096]
WARM_UP = 2
FILES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="a folder with audio files somewhere below it")
    parser.add_argument("--codec", type=Path, default=REPOSITORY / "examples" / "base_codec")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a slice")
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # one round, in a process of its own
    parser.add_argument("--device", help="measure on this device, on codes made here")
    on_device = parser.add_argument_group("with --device")
    on_device.add_argument("--lengths", type=float, nargs="+", default=[1.0, 2.0, 3.0, 4.0], help="of slices, seconds")
    on_device.add_argument("--batch-seconds", type=float, default=96.0, help="audio in a step")
    on_device.add_argument("--no-compile", dest="compile", action="store_false", help="our steps without torch.compile")
    on_device.add_argument("--corpus", type=int, default=2_800_000, help="utterances that phase 10 is extrapolated to")
    on_device.add_argument("--mean-seconds", type=float, default=5.0, help="of each of them")
    on_device.add_argument("--thin", action="store_true", help="a small codec, to try the benchmark")
    options = parser.parse_args()
    if options.device:
        import training_on_device

        training_on_device.measure(options)
        return
    if not options.speech.is_dir():
        parser.error(f"{options.speech} is no folder")
    if options.way:
        print(json.dumps(measure(options)))
        return
    rounds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            rounds[way].append(run(way))
    best = {way: max(rates) for way, rates in rounds.items()}
    print(
        f"{'speech s per s':16}{'snac':>10}{'ours':>10}{'ratio':>8}   {options.batch} slices of {options.seconds:g} s"
    )
    for part, name in (("decoder", "decoder alone"), ("whole", "with its data")):
        snac, ours = best[f"{part} snac"], best[f"{part} ours"]
        print(f"{name:16}{snac:>10.2f}{ours:>10.2f}{ours / snac:>8.2f}")
    if options.json:
        facts = {"torch": torch.__version__, "load": os.getloadavg(), "threads": options.threads}
        options.json.write_text(json.dumps({**facts, "rates": rounds}, indent=2) + "\n")


def run(way: str) -> float:
    """One round of `way` in a process of its own, with the same options."""
    from resources.pipeline import CHILD_ENVIRONMENT

    environment = {**os.environ, **(CHILD_ENVIRONMENT if way.endswith("ours") else {})}
    command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace) -> float:
    """Seconds of speech in a second: of supervised slices, over the steps after the first ones."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    files = sorted(file for kind in ("flac", "wav") for file in options.speech.rglob(f"*.{kind}"))[:FILES]
    ways = {
        "decoder snac": snac_decoder_steps,
        "decoder ours": our_decoder_steps,
        "whole snac": snac_steps,
        "whole ours": our_steps,
    }
    steps, done = ways[options.way](files, options), []
    while len(done) <= WARM_UP + options.steps:
        next(steps)
        done.append(time.perf_counter())
    return options.batch * options.seconds * options.steps / (done[-1] - done[WARM_UP])


# ---- the straightforward loop --------------------------------------------------------------------------------------


def published(codec: Path) -> tuple[torch.nn.Module, int]:
    """The package's model with this codec's weights, and its sampling rate."""
    import snac
    from safetensors.torch import load_file

    model = snac.SNAC.from_config(codec / "config.json")
    model.load_state_dict(load_file(codec / "model.safetensors"))
    return model, model.sampling_rate


def snac_loss(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    loss = (estimate - target).abs().mean()
    for n_fft in N_FFTS:
        window = torch.hann_window(n_fft)
        ours, theirs = (
            torch.stft(audio[:, 0], n_fft, n_fft // 4, window=window, return_complex=True).abs()
            for audio in (estimate, target)
        )
        loss = loss + (ours - theirs).abs().mean()
    return loss


def snac_steps(files: list[Path], options: argparse.Namespace, fixed: bool = False) -> Iterator[None]:
    """Read, encode, decode, learn. fixed: decode and learn, always the same batch."""
    import soundfile
    import soxr

    model, rate = published(options.codec)
    optimizer = torch.optim.AdamW(model.decoder.parameters(), lr=15e-6, weight_decay=1e-4)
    length = round(options.seconds * rate)

    def read() -> torch.Tensor:
        slices = []
        for file in random.sample(files, options.batch):
            audio, file_rate = soundfile.read(file, dtype="float32")
            audio = soxr.resample(audio, file_rate, rate, "HQ")
            start = random.randrange(max(1, len(audio) - length))
            piece = torch.from_numpy(audio[start : start + length])
            slices.append(torch.nn.functional.pad(piece, (0, length - len(piece))))
        return torch.stack(slices)[:, None]

    def encode(audio: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model.quantizer.from_codes(model.encode(audio))

    audio = read()
    latents = encode(audio)
    while True:
        if not fixed:
            audio = read()
            latents = encode(audio)
        estimate = model.decoder(latents)[..., :length]
        snac_loss(estimate, audio).backward()
        torch.nn.utils.clip_grad_norm_(model.decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def snac_decoder_steps(files: list[Path], options: argparse.Namespace) -> Iterator[None]:
    return snac_steps(files, options, fixed=True)


# ---- ours ----------------------------------------------------------------------------------------------------------


def our_steps(files: list[Path], options: argparse.Namespace, fixed: bool = False) -> Iterator[None]:
    """The library's own steps, on a home made for this. fixed: the step alone, always the same batch."""
    from snac_pipeline.codec import SNAC
    from snac_pipeline.training.compiling import Synthesis, choose_kernels
    from snac_pipeline.training.data import Reader, collate
    from snac_pipeline.training.loop import gradients, steps_of
    from snac_pipeline.training.model import build_model, enter_stage, trained_parameters
    from snac_pipeline.training.plan import Plan
    from snac_pipeline.training.ranks import ALONE
    from snac_pipeline.training.state import Training

    recipe = recipe_of(options, fixed)
    with tempfile.TemporaryDirectory() as folder:
        speech = cached_speech(files, options.codec, Path(folder))
        choose_kernels(recipe, torch.device("cpu"), lambda event: print(event, file=sys.stderr))
        model = build_model(recipe, SNAC.from_pretrained(options.codec))
        training, synthesis = Training(recipe, model, ALONE), Synthesis(model, compiled=False)
        plan = Plan(recipe, model, speech)
        model.train()
        if not fixed:
            reader = Reader(speech.dataset, plan.batches_from(0, 0), ALONE, recipe.loader_workers)
            for _ in steps_of(0, plan, training, reader, synthesis):
                yield
            sys.exit(f"{len(files)} files are too few for {options.steps} steps")
        [slices] = plan.epoch(0)[0]
        batch = collate([speech.dataset[item] for item in slices])
        enter_stage(recipe.stages[0], model)
        while True:
            gradients(training, [slices], itertools.repeat(batch), synthesis).item()
            torch.nn.utils.clip_grad_norm_(trained_parameters(model), recipe.optimizer.grad_clip).item()
            training.optimizer.step()
            training.optimizer.zero_grad(set_to_none=True)
            yield


def cached_speech(files: list[Path], codec: Path, home: Path, doubled: bool = False):
    """The files scanned and encoded into `home`, ready to train on. doubled: with targets at twice the codec's rate."""
    from snac_pipeline.codec import CodecSpec
    from snac_pipeline.codes.cache import cache_codes
    from snac_pipeline.codes.view import CodesView, build_view
    from snac_pipeline.corpus import Corpus, read_utterances, scan
    from snac_pipeline.settings import CachingSettings
    from snac_pipeline.training.data import SpeechSlices
    from snac_pipeline.training.plan import Speech

    entries = [{"audio_filepath": str(file.resolve()), "speaker": file.parent.name} for file in files]
    listed = home / "files.jsonl"
    listed.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    scan(Corpus("speech", listed), home)
    utterances = read_utterances(home, ["speech"], splits=False)
    caching = CachingSettings(engine="inline", readers=0, verify=0)
    cached = cache_codes(codec, utterances, home, caching, ["cpu"], lambda event: None)
    spec, digests = CodecSpec.from_file(codec / "config.json"), utterances["digest"].to_list()
    view = build_view(home, Path(cached["folder"]), digests, spec)
    rates = [spec.sampling_rate, *([2 * spec.sampling_rate] if doubled else [])]
    dataset = SpeechSlices(utterances["file"].to_list(), digests, spec, rates, view)
    return Speech(dataset, CodesView(view).frames, digests)


def our_decoder_steps(files: list[Path], options: argparse.Namespace) -> Iterator[None]:
    return our_steps(files, options, fixed=True)


def recipe_of(options: argparse.Namespace, fixed: bool):
    """Phase 10 with one epoch of one lesson; without context for `fixed`."""
    from snac_pipeline.training.recipe import Recipe

    return Recipe.model_validate(
        {
            "phase": "phase10",
            "heads": {"native": {"n_ffts": N_FFTS}},
            "stages": [{"name": "main", "epochs": 1, "learning_rates": {"trunk": 15e-6, "native_head": 15e-6}}],
            "curriculum": [{"epochs": 1, "seconds": options.seconds}],
            "batch_size": options.batch,
            "context_frames": 0 if fixed else None,
            "losses": {"l1": 1.0, "magnitude": 1.0},
        }
    )


if __name__ == "__main__":
    main()
