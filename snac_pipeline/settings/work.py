"""The sections about the work: recordings, codec, caching, training, evaluation, tokens."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic

from snac_pipeline.settings.yaml_files import Section

Precision = Literal["fp32", "tf32", "bf16"]
"""See codes/precision.py."""

Side = Literal["train", "val", "test"]

LayoutName = Literal["frame", "level_offsets", "coarse_only", "parallel"]
"""See tokens/layouts.py."""

Deduplicate = Literal["none", "identical", "coarse"]
"""See tokens/sequences.py."""

MetricName = Literal[
    "mel_distance", "stft_distance", "log_spectral_distance", "log_spectral_distance_high", "si_sdr", "l1",
    "magnitude_loss", "log_magnitude_loss", "mel_loss", "pesq_wb", "estoi", "f0_rmse", "voicing_error",
    "loudness_difference",
]  # fmt: skip
"""See evaluation/registry.py."""

TrackerName = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]

NumberOfMerges = Annotated[int, pydantic.Field(ge=1)]

DecoderName = Literal["decoder_24khz", "decoder_48khz", "decoder_dual_head"]


class CorpusSettings(Section):
    """A named collection of recordings."""

    path: str | None = None
    """A folder: every audio file below it belongs to the corpus; or a list of files (CSV, JSON lines, parquet); or a
    URL such as s3://bucket/speech. Required, unless `train_dir` and `val_dir` are given."""
    speaker: str | None = None
    """Where in a file's path its speaker stands, e.g. "{speaker}/**"; null: the first folder below `path`;
    "utterance": every file is its own speaker."""
    metadata: str | None = None
    """In place of `speaker`, a CSV or parquet file with the columns path and speaker."""
    confined: bool = False
    """Set files aside that lie outside of the folder: behind links, and in lists at absolute paths, `..` and URLs."""
    split: Side | None = None
    """Put everything of this corpus in train, val or test; null: `split.val` and `split.test` divide its speakers."""
    train_dir: str | None = None
    """In place of `path`, a ready-made division: a folder to train on, the corpus <name>-train."""
    val_dir: str | None = None
    """With `train_dir`: the folder that is held out, the corpus <name>-val."""
    test_dir: str | None = None
    """With `train_dir`, if there is one: the folder for the test, the corpus <name>-test."""

    @pydantic.model_validator(mode="after")
    def _path_or_folders(self) -> "CorpusSettings":
        if self.path is None and (self.train_dir is None or self.val_dir is None):
            raise ValueError("give `path`, or `train_dir` and `val_dir` for folders that are divided already")
        if self.path is not None and self.ready_made:
            raise ValueError("give either `path` or `train_dir` and `val_dir`, not both")
        if self.split is not None and self.ready_made:
            raise ValueError("`train_dir` and `val_dir` say what is where; leave out `split`")
        return self

    @property
    def ready_made(self) -> dict[Side, str]:
        """The folders that are divided already, by split."""
        folders: dict[Side, str | None] = {"train": self.train_dir, "val": self.val_dir, "test": self.test_dir}
        return {split: folder for split, folder in folders.items() if folder is not None}

    def by_side(self, name: str) -> dict[str, "CorpusSettings"]:
        """This corpus by its name; ready-made folders as one corpus each, with a path and a split."""
        if not self.ready_made:
            return {name: self}
        without = {"path": None, "train_dir": None, "val_dir": None, "test_dir": None}
        return {
            f"{name}-{split}": self.model_copy(update={**without, "path": folder, "split": split})
            for split, folder in self.ready_made.items()
        }


class SplitSettings(Section):
    """How much speech is held out."""

    val: float = pydantic.Field(0.05, gt=0, lt=1)
    """Share of each corpus, by duration, whose speakers training never hears."""
    test: float = pydantic.Field(0.0, ge=0, lt=1)
    """Share set apart beside `val` for a last test, which nothing here looks at; speakers that have a side keep it."""

    @pydantic.model_validator(mode="after")
    def _something_to_train_on(self) -> "SplitSettings":
        if self.val + self.test >= 1:
            raise ValueError("`val` and `test` together have to be less than 1: the rest is to train on")
        return self


class BaseCodecSettings(Section):
    """The pretrained codec that everything starts from."""

    source: str = "hubertsiuzdak/snac_24khz"
    """A folder with config.json and weights, or a Hugging Face hub id."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""


class RestorerSettings(Section):
    """The model that makes 48 kHz audio of recordings, for recipes whose targets are `restored`."""

    source: str | None = None
    """A folder or a Hugging Face hub id, e.g. sarulab-speech/sidon-v0.1; null: nothing is restored."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    feature_extractor: str = "feature_extractor_cuda.pt"
    """TorchScript file: features of 16 kHz speech; see training/restoring.py."""
    decoder: str = "decoder_cuda.pt"
    """TorchScript file: from those features to 48 kHz audio."""


class CachingSettings(Section):
    """How utterances are encoded. Only `precision` changes codes."""

    processes: int = pydantic.Field(0, ge=0)
    """Worker processes; 0: one per GPU, or one per two CPU cores (with Ray: per core)."""
    batch_seconds: float = pydantic.Field(60.0, gt=0)
    """Audio seconds that are encoded at once at most; bounds memory."""
    part_utterances: int = pydantic.Field(2000, ge=1)
    """Utterances in one parquet part at most; what a crash can cost."""
    verify: int = pydantic.Field(64, ge=0)
    """Utterances of every run that are encoded again alone and compared."""
    precision: Precision = "fp32"
    """Arithmetic of the encoder: float32; TF32, on GPUs only; or bfloat16 convolutions. Each has codes of its own."""
    engine: Literal["local", "ray", "inline"] = "local"
    """Where: processes of this machine; a Ray cluster, which needs the extra `ray`; or, for debugging, the command's
    own process, which a crash ends."""
    ray_address: str | None = None
    """The Ray cluster's head, host:port; null: the one started here by `ray start`, else one of this machine alone."""
    readers: int = pydantic.Field(0, ge=0)
    """Processes that decode ahead for each worker; 0: a GPU's share of the cores, none on a CPU."""
    compile: bool = True
    """On a CPU, compile Snake for runs of an hour of audio and more, if a C++ compiler is there: 1.4 times as fast."""
    hang_seconds: float = pydantic.Field(300.0, gt=0)
    """A worker that has not finished a batch for so long is taken for hung: it is killed and its part tried again."""


class DecoderSettings(Section):
    """One decoder to train: its recipe and its starting point, an edge of the asset graph."""

    recipe: Path
    """How it is trained; see recipes/."""
    starts_from: Literal["base_codec", "decoder_24khz"] = "base_codec"
    """The codec whose decoder it begins as."""


def _default_decoders() -> dict[DecoderName, DecoderSettings]:
    return {
        "decoder_24khz": DecoderSettings(recipe=Path("recipes/phase10.yaml")),
        "decoder_48khz": DecoderSettings(recipe=Path("recipes/phase11.yaml"), starts_from="decoder_24khz"),
        "decoder_dual_head": DecoderSettings(recipe=Path("recipes/phase12.yaml")),
    }


class TrainingSettings(Section):
    """Which recipe trains which decoder."""

    decoders: dict[DecoderName, DecoderSettings] = pydantic.Field(default_factory=_default_decoders)
    """The decoders to train, by name: decoder_24khz, decoder_48khz, decoder_dual_head; default: all three."""
    overlay: Path | None = None
    """A file of recipe fields laid over every recipe, e.g. recipes/demo.yaml for a short run."""
    limit: int | None = pydantic.Field(None, ge=1)
    """Train on at most this many utterances, for a quick try; part of the run's identity."""
    tracker: TrackerName = "none"
    """Where curves and sounds can be followed while a run trains; see training/tracking.py."""

    @pydantic.field_validator("decoders")
    @classmethod
    def _no_self_start(cls, decoders: dict[str, DecoderSettings]) -> dict[str, DecoderSettings]:
        first = decoders.get("decoder_24khz")
        if first is not None and first.starts_from != "base_codec":
            raise ValueError("decoder_24khz cannot start from itself")
        if first is None and any(d.starts_from == "decoder_24khz" for d in decoders.values()):
            raise ValueError("a decoder starts from decoder_24khz, which is not listed")
        return decoders


class ScorerSettings(Section):
    """A model of one's own that gives speech a score: speech (1, T) in, a number or several out."""

    file: Path
    """A .pt file (TorchScript) or an .onnx file, which needs the extra `onnx`."""
    sample_rate: int = pydantic.Field(16_000, ge=8000)
    """Hz of the speech that it takes."""
    seconds: float | None = pydantic.Field(None, ge=0.1)
    """Length that it is made for, e.g. 9.01 for DNSMOS; null: any."""
    output: int = pydantic.Field(0, ge=0)
    """Which of its numbers is the score."""
    higher_is_better: bool = True


class EvaluationSettings(Section):
    """What is compared on the held-out utterances."""

    headline: str = "mel_distance"
    """The metric that claims, the check and the order of examples go by: of MetricName, or one of your own models."""
    limit: int | None = pydantic.Field(200, ge=1)
    """Held-out utterances at most (a fixed sample); null: all."""
    max_seconds: float = pydantic.Field(20.0, gt=0)
    """Longer utterances are cut to this many seconds before they are compared."""
    listen: int = pydantic.Field(4, ge=0)
    """Utterances with pictures and sound in the report."""
    scorers: dict[str, ScorerSettings] = {}
    """Predictors of opinion scores by name (utmos, dnsmos, ...), from files of one's own; nothing is downloaded."""
    recogniser: Path | None = None
    """Folder of a transformers model for speech recognition, for word error rates; needs the extra `asr`."""

    @pydantic.model_validator(mode="after")
    def _known_headline(self) -> "EvaluationSettings":
        own = [*self.scorers, *(["word_error_rate"] if self.recogniser else [])]
        known = [*get_args(MetricName), *own]
        if self.headline not in known:
            raise ValueError(
                f"`headline`: there is no metric {self.headline!r}; it is one of {', '.join(known)}, or the name of "
                "a model that `scorers` has, or word_error_rate with a `recogniser`"
            )
        return self


TokenResult = Literal["statistics", "sequences", "bpe"]


USED_BY: dict[TokenResult, tuple[str, ...]] = {
    "statistics": (),
    "sequences": ("layout", "offset", "deduplicate", "segment_seconds"),
    "bpe": ("layouts", "merges", "sample_tokens", "engine", "merge_within", "run_length"),
}
"""Of `tokens`, what each result depends on."""


class TokenSettings(Section):
    """Token statistics and byte-pair encoding."""

    layout: LayoutName = "frame"
    """Order of the levels' tokens in the sequences that are written; see tokens/layouts.py."""
    bpe_layouts: list[LayoutName] = ["frame", "level_offsets", "coarse_only"]
    """Layouts in which byte-pair encoding is judged besides `layout`, on the same speech; []: in that alone."""
    offset: int = pydantic.Field(128_266, ge=0)
    """The first id of the sequences; those before are a text tokenizer's. 128266: as Orpheus-TTS does."""
    deduplicate: Deduplicate = "none"
    """Coarse frames left out of the sequences for repeating the one before: those that are `identical`, or all whose
    coarsest token (`coarse`) is the same, as Orpheus-TTS does."""
    segment_seconds: float | None = pydantic.Field(None, gt=0)
    """Cut the sequences into pieces of so long; null: a sequence is an utterance."""
    merges: list[NumberOfMerges] = pydantic.Field([1000, 2000, 4000, 8000, 16_000, 32_000], min_length=1)
    """Numbers of merges of the byte-pair encoding to judge, besides none; one training serves all."""
    sample_tokens: int = pydantic.Field(20_000_000, ge=1)
    """Ids, in the longest of the layouts, that the byte-pair encoding is trained on at most, and judged on at most."""
    engine: Literal["sentencepiece", "huggingface"] = "sentencepiece"
    """What learns the merges. Both give the same kinds of files; sentencepiece takes less time and memory."""
    merge_within: Literal["utterance", "frame", "level"] = "utterance"
    """No merge crosses the border of an utterance, of a coarse frame, or of neighbouring ids of one level."""
    run_length: bool = False
    """Write repeated coarse frames as run lengths before merging."""

    def used_by(self, what: TokenResult) -> dict[str, Any]:
        """Those that a result depends on, as JSON values: what changes none of them changes not the result."""
        options = self.model_dump(mode="json")
        if what == "bpe":
            options["layouts"] = list(dict.fromkeys([self.layout, *self.bpe_layouts]))
            options["merges"] = sorted(set(self.merges))
        return {name: options[name] for name in USED_BY[what]}
