"""What learning BPE costs with either engine, and how fast the result encodes, at two sizes of the sample.

python benchmarks/bpe.py [--tokens 5000000 20000000] [--merges 8000] [--json FILE]          prints a table
python benchmarks/bpe.py --sweep [--tokens 20000000]        `train_bpe` with its defaults, judged on a tenth as many

Made tokens: the layout `frame` of 3 levels of 4096 codes (28,672 ids), 12 coarse frames a second, utterances of ten
seconds; a few codes are used often, and every third follows from the one before. Each row is measured in a process of
its own; encoding is of 1 M ids that were not learned from, with all merges.
"""

import argparse
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import sentencepiece
import tokenizers

from snac_pipeline.tokens import TokenGeometry, TokenStream, make_layout, train_bpe
from snac_pipeline.tokens.bpe_tokenizer import learn_merges
from snac_pipeline.tokens.cost import costing
from snac_pipeline.tokens.merging import ENGINES
from snac_pipeline.tokens.sentencepiece_model import sentencepiece_model

LAYOUT = make_layout("frame", TokenGeometry((1, 2, 4), 4096, 2048 / 24_000), 0)
SLOTS, FRAMES = 7, 120  # an utterance
HELD_OUT = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[5_000_000, 20_000_000], help="sizes of the sample")
    parser.add_argument("--merges", type=int, default=8000)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    parser.add_argument("--sweep", action="store_true", help="measure all that the asset does in a layout instead")
    options = parser.parse_args()
    if options.sweep:
        for tokens in options.tokens:
            sweep(tokens)
        return
    names = f"{'ids/cpu-s, tokenizers':>23}{'sentencepiece':>15}{'ratio':>8}"
    print(f"{'':16}{'tokens':>12}{'merges':>8}{'train s':>9}{'CPU s':>8}{'MB':>8}{names}")
    rows = []
    for tokens in options.tokens:
        for engine in ENGINES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:  # fresh memory
                row = pool.apply(measure, (engine, tokens, options.merges))
            rows.append(row)
            speeds = f"{row['tokenizers_ids_per_second']:>23,.0f}{row['sentencepiece_ids_per_second']:>15,.0f}"
            costs = f"{row['seconds']:>9.1f}{row['cpu_seconds']:>8.1f}{row['megabytes'] or 0:>8.0f}"
            print(f"{engine:16}{tokens:>12,}{row['merges']:>8,}{costs}{speeds}{row['ratio']:>8.3f}", flush=True)
    if options.json:
        versions = {"tokenizers": tokenizers.__version__, "sentencepiece": sentencepiece.__version__}
        options.json.write_text(json.dumps({**versions, "rows": rows}, indent=2) + "\n")


def measure(engine: str, tokens: int, merges: int) -> dict:
    """Seconds and peak memory of learning; ids per CPU second of encoding with the files of either kind."""
    ids, offsets = made_ids(tokens, seed=0)
    learned, cost = costing(lambda: learn_merges(LAYOUT, ids, offsets, merges, engine=engine))
    held, borders = made_ids(HELD_OUT, seed=1)
    stock = learned.tokenizer
    (encoded, _), with_tokenizers = costing(lambda: learned.encode(held, borders))
    texts = [learned.alphabet.text(row) for row in held.reshape(-1, SLOTS * FRAMES)]
    other = sentencepiece.SentencePieceProcessor(
        model_proto=sentencepiece_model(learned.alphabet.characters, learned.entries)
    )
    pieces, with_sentencepiece = costing(lambda: other.encode(texts))
    differ = sum(stock.encode(text).ids != piece for text, piece in zip(texts, pieces, strict=True))
    return {
        "engine": engine,
        "tokens": tokens,
        "merges": learned.merges,
        **asdict(cost),
        "tokenizers_ids_per_second": held.size / with_tokenizers.cpu_seconds,
        "sentencepiece_ids_per_second": held.size / with_sentencepiece.cpu_seconds,
        "utterances_split_differently": differ,
        "ratio": held.size / encoded.size,
    }


def sweep(tokens: int) -> None:
    """Learn, fit and judge every number of merges of the default settings; print what it costs."""
    ids, offsets = made_ids(tokens * 11 // 10, seed=0)
    rows = len(offsets) - 1
    utterances = pl.DataFrame({"digest": [f"{row:032x}" for row in range(rows)]}).with_columns(
        corpus=pl.lit("made"),
        split=pl.when(pl.int_range(rows) % 11 == 0).then(pl.lit("val")).otherwise(pl.lit("train")),
    )
    stream = TokenStream(LAYOUT.geometry, LAYOUT.unflatten(ids), offsets // SLOTS, utterances)
    report, cost = costing(lambda: train_bpe(stream, sample_tokens=tokens))
    print(f"{tokens:,} ids: {cost.seconds:.1f} s, {cost.cpu_seconds:.1f} CPU s, of which {report.training}")
    print(report.recommendation.text)


def made_ids(tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """About so many ids of whole utterances, and their borders."""
    rng = np.random.default_rng(seed)
    utterances = max(1, tokens // (SLOTS * FRAMES))
    codes = (rng.zipf(1.2, (utterances * FRAMES, SLOTS)) % 4096).astype(np.int32)
    for slot in range(1, SLOTS):
        follows = rng.random(len(codes)) < 1 / 3
        codes[follows, slot] = (codes[follows, slot - 1] * 31 + slot) % 4096
    ids = codes + np.arange(SLOTS, dtype=np.int32) * 4096
    return ids.reshape(-1), np.arange(utterances + 1) * SLOTS * FRAMES


if __name__ == "__main__":
    main()
