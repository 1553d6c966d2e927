"""The pipeline's steps: settings in, figures out. Each command of the command line, and so each asset, is one of these.

Nothing here is done twice: every step derives from its inputs what is missing, or finds its result by their hash.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from snac_pipeline.codec import SNAC, double_rate, weights_digest
from snac_pipeline.codec.hub import resolve
from snac_pipeline.codes.cache import cache_codes, check_codes, verify_sample
from snac_pipeline.codes.fingerprint import encoder_fingerprint
from snac_pipeline.codes.parts import codes_folder, read_codes
from snac_pipeline.corpus import Corpus, manifest_version, read_manifest, read_utterances, scan, update_splits
from snac_pipeline.engine.devices import find_devices, worker_devices
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_folder, value_digest, write_json
from snac_pipeline.settings import DecoderName, Settings
from snac_pipeline.tokens import (
    TokenGeometry,
    TokenStream,
    make_layout,
    read_tokens,
    token_statistics,
    train_bpe,
    write_bpe,
    write_sequences,
    write_statistics,
)
from snac_pipeline.training.recipe import load_recipe
from snac_pipeline.training.runs import Inputs, Run, execute_run, plan_run

OnEvent = Callable[[dict[str, Any]], None]


def corpus_of(settings: Settings, name: str, limit: int | None = None) -> Corpus:
    """The named corpus of the settings; PipelineError lists the names there are."""
    if name not in settings.corpora:
        raise PipelineError(f"no corpus is called {name!r}; pipeline.yaml names {', '.join(settings.corpora)}")
    options = settings.corpora[name]
    return Corpus(name, options.path, speaker=options.speaker, limit=limit or settings.limit)


def scan_corpus(settings: Settings, name: str, limit: int | None, on_event: OnEvent) -> dict[str, Any]:
    """Bring one corpus's manifest and quarantine up to date."""

    def progress(done: int, total: int) -> None:
        on_event({"message": f"{done}/{total} files read", "done": done, "total": total})

    return asdict(scan(corpus_of(settings, name, limit), settings.home, progress=progress))


def split_corpora(settings: Settings) -> dict[str, Any]:
    """Give every speaker of every corpus a side; those that have one keep it."""
    manifest = read_manifest(settings.home, list(settings.corpora))
    report = update_splits(manifest, settings.home, {"val": settings.split.val})
    figures = asdict(report)
    counts, hours = figures.pop("utterances"), figures.pop("hours")
    return {
        **{name: counts.get(name, 0) for name in ("train", "val")},
        **{f"{name}_hours": hours.get(name, 0.0) for name in ("train", "val")},
        "manifest": manifest_version(manifest),
        **figures,
    }


def base_codec(settings: Settings) -> tuple[SNAC, Path]:
    """The codec that everything starts from, and its folder."""
    options = settings.base_codec
    folder = resolve(options.source, revision=options.revision)
    return SNAC.from_pretrained(folder), folder


def describe_codec(model: SNAC, source: str) -> dict[str, Any]:
    """A codec's identity and geometry."""
    spec = model.spec
    return {
        "source": source,
        "weights_digest": weights_digest(model.state_dict()),
        "fingerprint": encoder_fingerprint(model),
        "parameters": sum(p.numel() for p in model.parameters()),
        "sampling_rate": spec.sampling_rate,
        "output_rates": list(spec.output_rates),
        "coarse_frame": spec.coarse_frame,
        "levels": spec.levels,
        "codebook_size": spec.codebook_size,
        "tokens_per_second": spec.tokens_per_second,
        "bits_per_second": spec.bits_per_second,
    }


def cache(settings: Settings, corpora: list[str], on_event: OnEvent) -> dict[str, Any]:
    """Encode what is missing of the named corpora."""
    _, folder = base_codec(settings)
    for name in corpora:
        corpus_of(settings, name)
    utterances = read_utterances(settings.home, corpora, splits=False)
    devices = worker_devices(find_devices(settings.devices), settings.caching.processes)
    return cache_codes(folder, utterances, settings.home, settings.caching, devices, on_event)


def verify_codes(settings: Settings, corpora: list[str], sample: int | None) -> dict[str, Any]:
    """Check ranges and lengths of all cached codes; with `sample`, encode so many utterances again and compare."""
    model, _ = base_codec(settings)
    parts = codes_folder(settings.home, encoder_fingerprint(model))
    utterances = read_utterances(settings.home, corpora, splits=False)
    if sample is None:
        return {"utterances": len(utterances), "errors": check_codes(parts, utterances, model)}
    model = model.to(find_devices(settings.devices)[0])
    figures = verify_sample(model, parts, utterances, utterances["digest"].to_list(), sample)
    return {
        "compared": figures["utterances"],
        "compared_tokens": figures["tokens"],
        "mismatched_tokens": figures["mismatched"],
    }


def decoder_run(settings: Settings, name: DecoderName, limit: int | None = None) -> Run:
    """The run of one decoder, planned from the settings.

    Raises PipelineError when the decoder it starts from is not trained yet.
    """
    if name not in settings.training.decoders:
        raise PipelineError(f"no decoder is called {name!r}; pipeline.yaml has {', '.join(settings.training.decoders)}")
    options = settings.training.decoders[name]
    recipe = load_recipe(options.recipe, settings.training.overlay)
    start, _ = base_codec(settings)
    codes = None if recipe.trains_codes else encoder_fingerprint(start)
    if options.starts_from != "base_codec":
        before = decoder_run(settings, options.starts_from, limit).result()
        if before is None:
            raise PipelineError(f"{name} starts from {options.starts_from}, which is not trained yet; train it first")
        start = SNAC.from_pretrained(before["model"])
    utterances = read_utterances(settings.home, list(settings.corpora))
    limit = limit or settings.training.limit
    return plan_run(recipe, Inputs(utterances, start, codes, limit), settings.home)


def recipe_run(settings: Settings, recipe_file: Path, limit: int | None = None) -> Run:
    """The run of a recipe that no decoder of the settings has, such as recipes/scratch.yaml."""
    recipe = load_recipe(recipe_file, settings.training.overlay)
    start = None if recipe.codec is not None else base_codec(settings)[0]
    codes = None if recipe.trains_codes or start is None else encoder_fingerprint(start)
    utterances = read_utterances(settings.home, list(settings.corpora))
    return plan_run(recipe, Inputs(utterances, start, codes, limit or settings.training.limit), settings.home)


def train(settings: Settings, what: str, limit: int | None, on_event: OnEvent) -> dict[str, Any]:
    """Train a decoder of the settings by its name, or a recipe by its path."""
    is_file = what.endswith((".yaml", ".yml"))
    run = recipe_run(settings, Path(what), limit) if is_file else decoder_run(settings, what, limit)
    return execute_run(run, find_devices(settings.devices)[0], on_event)


def evaluate(settings: Settings, on_event: OnEvent) -> dict[str, Any]:
    """Compare the base codec and every decoder that is trained on held-out utterances, and write the report."""
    from snac_pipeline import evaluation as ev

    model, base = base_codec(settings)
    native = model.spec.sampling_rate
    results = {name: decoder_run(settings, name).result() for name in trained_order(settings)}
    contestants = [ev.Contestant("base", base, native)]
    for name, result in results.items():
        if result is not None:
            contestants += _contestants(name, Path(result["model"]), native)
    parts = codes_folder(settings.home, encoder_fingerprint(model))
    utterances = read_utterances(settings.home, list(settings.corpora)).filter(pl.col("split") == "val")
    chosen = utterances.sort("digest").head(settings.evaluation.limit or len(utterances))
    versions = {
        "base codec": weights_digest(model.state_dict()),
        "codes": parts.name,
        "held-out utterances": value_digest(chosen["digest"].to_list()),
        **{name: result["weights_digest"] for name, result in results.items() if result is not None},
    }
    options = settings.evaluation.model_dump(mode="json")
    folder = settings.home / "evaluation" / value_digest([versions, options, EVALUATION_REVISION])[:16]
    if not (folder / "result.json").exists():
        items = _held_out(chosen, parts, model.spec.levels)
        conditions = {
            "device": find_devices(settings.devices)[0],
            "max_seconds": settings.evaluation.max_seconds,
            "resample": _resample,
        }

        def progress(done: int) -> None:
            on_event({"message": f"{done}/{len(items)} utterances compared", "done": done, "total": len(items)})

        metrics = ev.compare(contestants, items, progress=progress, **conditions)
        summary = ev.summarise(metrics)
        last = contestants[-1].name
        examples = ev.choose_examples(metrics, last, count=settings.evaluation.listen)
        missing = [name for name, result in results.items() if result is None]
        context = ev.ReportContext(
            command="snac-pipeline evaluate --settings pipeline.yaml",
            versions={**versions, "recipes": {name: r["run"] for name, r in results.items() if r is not None}},
            curves={name: _curve(Path(r["run"])) for name, r in results.items() if r is not None},
            examples=ev.listening_examples(contestants, items, examples, **conditions),
            codebook=ev.codebook_use([item.codes for item in items], model.spec),
            notes=[f"{name} is not trained yet and not in this report." for name in missing],
            paths=dict(chosen.select("digest", "path").rows()),
        )
        report = ev.write_evaluation(folder, metrics, summary, context)
        table = summary.rename({"mean": "mean"}).to_dicts()
        facts = json.loads((folder / "summary.json").read_text())
        write_json(
            folder / "result.json",
            {
                "folder": str(folder),
                "version": folder.name,
                "report": str(report),
                "utterances": len(items),
                "headlines": facts["headlines"],
                "not_run": facts["not_run"],
                "table": table,
            },
        )
        return {**json.loads((folder / "result.json").read_text()), "reused": False}
    return {**json.loads((folder / "result.json").read_text()), "reused": True}


EVALUATION_REVISION = 1
"""Raised when a change of this code changes an evaluation."""


def trained_order(settings: Settings) -> list[DecoderName]:
    """The decoders of the settings whose starting point is there."""
    names = sorted(settings.training.decoders, key=lambda n: settings.training.decoders[n].starts_from != "base_codec")
    ready = []
    for name in names:
        start = settings.training.decoders[name].starts_from
        if start == "base_codec" or decoder_run(settings, start).result() is not None:
            ready.append(name)
    return sorted(ready)


def _contestants(name: str, folder: Path, native: int) -> list:
    from snac_pipeline.codec import CodecSpec
    from snac_pipeline.evaluation import Contestant, resampled_name

    rates = CodecSpec.from_file(folder / "config.json").output_rates
    if rates == (native,):
        return [
            Contestant(name, folder, native),
            Contestant(resampled_name(name, 2 * native), folder, 2 * native, resampled_from=native),
        ]
    return [Contestant(name if len(rates) == 1 else f"{name} at {rate / 1000:g} kHz", folder, rate) for rate in rates]


def _resample(audio, source: int, target: int):
    """The project's one interpolation to twice the rate, as a numpy function for the evaluation."""
    import torch

    if target != 2 * source:
        raise PipelineError(f"outputs are compared at their own rate or twice it, not {target} Hz from {source} Hz")
    return double_rate(torch.from_numpy(audio)[None, None])[0, 0].numpy()


def _held_out(chosen: pl.DataFrame, parts: Path, levels: int) -> list:
    from snac_pipeline.evaluation import Utterance

    codes = read_codes(parts, chosen["digest"].to_list())
    return [
        Utterance(digest, file, [codes[f"codes_{k}"][i].to_numpy() for k in range(levels)])
        for i, (digest, file) in enumerate(chosen.select("digest", "file").rows())
    ]


def _curve(run: Path) -> list[dict[str, Any]]:
    """A run's history as rows of step, loss and val (the first output rate's held-out loss)."""
    rows = []
    for line in (run / "history.jsonl").read_text().splitlines():
        entry = json.loads(line)
        held_out = [value for key, value in entry.items() if key.startswith("val_")]
        rows.append({"step": entry["step"], "loss": entry.get("loss"), "val": held_out[0] if held_out else None})
    return rows


TOKENS_REVISION = 1
"""Raised when a change of the tokens room changes its outputs."""


def tokens(settings: Settings, what: str, on_event: OnEvent) -> dict[str, Any]:
    """`what`: statistics, sequences or bpe; of the cached codes of all corpora."""
    model, _ = base_codec(settings)
    spec, fingerprint = model.spec, encoder_fingerprint(model)
    utterances = read_utterances(settings.home, list(settings.corpora))
    options = {} if what == "statistics" else settings.tokens.model_dump(mode="json")
    selection = value_digest(utterances.select("digest", "corpus", "split").rows())
    version = value_digest([what, fingerprint, selection, options, TOKENS_REVISION])[:16]
    folder = settings.home / "tokens" / f"{what}-{version}"
    file = folder / "result.json"
    if file.exists():
        return {**json.loads(file.read_text()), "reused": True}
    geometry = TokenGeometry(spec.tokens_per_frame, spec.codebook_size, spec.frame_seconds)
    stream = read_tokens(codes_folder(settings.home, fingerprint), utterances, geometry)
    on_event({"message": f"{stream.frames} coarse frames read"})
    with atomic_folder(folder) as temporary:
        figures = _TOKEN_STEPS[what](stream, settings, temporary)
        files = [file.name for file in figures.pop("files")]
        plot = next((str(folder / name) for name in files if name.endswith(".png")), None)
        write_json(
            temporary / "result.json",
            {"folder": str(folder), "version": version, **figures, "plot": plot, "files": files},
        )
    return {**json.loads(file.read_text()), "reused": False}


def _statistics(stream: TokenStream, settings: Settings, folder: Path) -> dict[str, Any]:
    statistics = token_statistics(stream)
    per_level = {
        f"{name}_level_{k}": statistics.value(name, k)
        for k in range(stream.geometry.levels)
        for name in ("perplexity", "dead_codes")
    }
    count = sum(len(level) for level in stream.codes)
    return {"tokens": count, "hours": stream.seconds / 3600, **per_level, "files": write_statistics(folder, statistics)}


def _sequences(stream: TokenStream, settings: Settings, folder: Path) -> dict[str, Any]:
    layout = make_layout(settings.tokens.layout, stream.geometry)
    count = write_sequences(folder / "sequences.parquet", stream, layout)
    return {"layout": settings.tokens.layout, "ids": count, "files": [folder / "sequences.parquet"]}


def _bpe(stream: TokenStream, settings: Settings, folder: Path) -> dict[str, Any]:
    options = settings.tokens
    report = train_bpe(stream, layout=options.layout, merges=options.merges, sample_tokens=options.sample_tokens)
    return {
        "layout": options.layout,
        "merges": report.tokenizer.merges,
        "merges_asked": options.merges,
        "compression_ratio": report.value("compression_ratio"),
        "bits_per_second": report.value("bits_per_second"),
        "bits_per_second_without": report.value("bits_per_second", 0),
        "recommendation": report.recommendation,
        "files": write_bpe(folder, report),
    }


_TOKEN_STEPS = {"statistics": _statistics, "sequences": _sequences, "bpe": _bpe}
