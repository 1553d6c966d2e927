"""How much audio a second of CPU time encodes: ours against a loop over the PyPI package `snac`, same codes demanded.

python benchmarks/encode.py [--speech FOLDER] [--utterances 24] [--rounds 3] [--threads 1] [--json FILE]

With --device cuda (or cpu), encode_on_device.py on audio made there: real-time factor in every precision beside the
same loop, token agreement, share of the copy bandwidth. It needs torch, and nothing that reads files.

24 kHz geometry, random weights. The loop reads with soundfile, resamples with soxr, encodes file by file, as one writes
it down. Ours is what a worker of the code cache runs, eagerly and with the fused Snake. Each way is a process with the
environment that it has in use; rounds alternate; the best round of each counts, loading left out.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

SPEECH = Path(__file__).parents[2] / "shared" / "speech" / "librispeech"
GEOMETRY = {
    "sampling_rate": 24000, "encoder_dim": 48, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 1024,
    "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096, "codebook_dim": 8,
    "vq_strides": [4, 2, 1],
}  # fmt: skip
WAYS = ("snac", "eager", "fused")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, default=SPEECH, help="a folder with audio files somewhere below it")
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # one round, in a process of its own
    parser.add_argument("--device", help="measure on this device, on audio made here")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="with --device: audio encoded at once")
    parser.add_argument("--compared", type=int, default=16, help="with --device: utterances compared with the CPU's")
    parser.add_argument("--thin", action="store_true", help="with --device: a small codec, to try the benchmark")
    options = parser.parse_args()
    if options.device:
        import encode_on_device

        encode_on_device.measure(options, GEOMETRY)
        return
    files = sorted(file for kind in ("flac", "wav") for file in options.speech.rglob(f"*.{kind}"))[: options.utterances]
    if not files:
        parser.error(f"{options.speech} has no flac or wav files")
    if options.way:
        print(json.dumps(measure(options.way, files, options.threads)))
        return
    rounds = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            rounds[way].append(run(way, options))
    best = {way: max(results, key=lambda result: result["rate"]) for way, results in rounds.items()}
    differing = {
        way: sum(a != b for a, b in zip(best["snac"]["codes"], best[way]["codes"], strict=True)) for way in WAYS
    }
    print(f"{'':8}{'audio s per CPU s':>20}{'ratio':>8}{'tokens that differ':>20} of {len(best['snac']['codes'])}")
    for way in WAYS:
        ratio = best[way]["rate"] / best["snac"]["rate"]
        print(f"{way:8}{best[way]['rate']:>20.2f}{ratio:>8.2f}{differing[way]:>20}")
    figures = {
        "torch": torch.__version__,
        "threads": options.threads,
        "audio_seconds": best["snac"]["audio_seconds"],
        "rates": {way: [result["rate"] for result in results] for way, results in rounds.items()},
        "tokens": len(best["snac"]["codes"]),
        "differing": differing,
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def run(way: str, options: argparse.Namespace) -> dict:
    """One round of `way` in a process of its own."""
    from resources.pipeline import CHILD_ENVIRONMENT

    command = [sys.executable, __file__, "--way", way, "--speech", str(options.speech)]
    command += ["--utterances", str(options.utterances), "--threads", str(options.threads)]
    environment = {**os.environ, **(CHILD_ENVIRONMENT if way != "snac" else {})}
    environment["OMP_NUM_THREADS"] = str(options.threads)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, files: list[Path], threads: int) -> dict:
    """Encode the files; audio seconds per CPU second, and all codes, file by file and level by level."""
    torch.set_num_threads(threads)
    encode = loop_over_snac() if way == "snac" else ours(files, fused=way == "fused")
    encode(files[:2])
    began = time.process_time()
    codes, seconds = encode(files)
    spent = time.process_time() - began
    return {"rate": seconds / spent, "audio_seconds": seconds, "codes": [int(token) for token in codes]}


def random_weights() -> dict[str, torch.Tensor]:
    """Of a codec that lets sound through, so that codes depend on it."""
    from snac_pipeline.codec import SNAC, CodecSpec
    from snac_pipeline.training.model import initialise

    torch.manual_seed(0)
    model = SNAC(CodecSpec.from_dict(GEOMETRY))
    initialise(model)
    return model.state_dict()


def loop_over_snac():
    """The straightforward way."""
    import snac
    import soundfile
    import soxr

    model = snac.SNAC(**GEOMETRY)
    model.load_state_dict(random_weights())
    model.eval()

    def encode(files: list[Path]) -> tuple[np.ndarray, float]:
        codes, seconds = [], 0.0
        for file in files:
            audio, rate = soundfile.read(file, dtype="float32")
            audio = soxr.resample(audio, rate, GEOMETRY["sampling_rate"], "HQ")
            with torch.inference_mode():
                codes += [level[0].numpy() for level in model.encode(torch.from_numpy(audio)[None, None])]
            seconds += len(audio) / GEOMETRY["sampling_rate"]
        return np.concatenate(codes), seconds

    return encode


def ours(files: list[Path], fused: bool):
    """What a worker of the code cache does with a part of scanned files: hash, read, encode, write."""
    from snac_pipeline.codec import SNAC, CodecSpec
    from snac_pipeline.codes.cache import encode_part
    from snac_pipeline.codes.encode import Recording
    from snac_pipeline.codes.parts import read_codes
    from snac_pipeline.corpus.audio import resampled_length
    from snac_pipeline.corpus.probe import digest_of, probe
    from snac_pipeline.settings import CachingSettings

    model = SNAC(CodecSpec.from_dict(GEOMETRY))
    model.load_state_dict(random_weights())
    home = tempfile.TemporaryDirectory()
    codec = model.save_pretrained(Path(home.name) / "codec")
    known = {}
    for file in files:
        facts = probe(file)
        length = resampled_length(facts.num_frames, facts.sample_rate, model.spec.sampling_rate)
        known[file] = Recording(digest_of(file), str(file), length)

    def encode(files: list[Path]) -> tuple[np.ndarray, float]:
        items = [known[file] for file in files]
        parts = Path(tempfile.mkdtemp(dir=home.name))
        for _ in encode_part(codec, parts, CachingSettings(), 0, fused, items, "cpu"):
            pass
        rows = read_codes(parts, [item.digest for item in items])
        levels = [rows[f"codes_{k}"] for k in range(model.spec.levels)]
        codes = [level[i].to_numpy() for i in range(len(items)) for level in levels]
        return np.concatenate(codes), sum(item.num_samples for item in items) / model.spec.sampling_rate

    return encode


if __name__ == "__main__":
    main()
