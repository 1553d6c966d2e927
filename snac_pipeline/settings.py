"""pipeline.yaml -> typed settings: what to work on, where to keep it, and with which devices.

How to train is not here but in the recipes. Every unknown key is an error that names it; relative paths count from the
folder of the file.
"""

import os
import re
import shlex
import zoneinfo
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import pydantic
import yaml
from pydantic_core import ErrorDetails

from snac_pipeline.errors import PipelineError

Model = TypeVar("Model", bound=pydantic.BaseModel)

PROJECT = Path(__file__).parents[1]
"""The project's folder, where its recipes are."""

SETTINGS_VARIABLE = "SNAC_PIPELINE_SETTINGS"
"""Environment variable that names the settings file to use instead of ./pipeline.yaml."""

DEVICES_VARIABLE = "SNAC_PIPELINE_DEVICES"
"""Environment variable with devices, as "cuda:0, cuda:1", to use instead of the settings' `devices`."""

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
WhenTaken = Literal["warn", "wait", "refuse"]

TrackerName = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]

NumberOfMerges = Annotated[int, pydantic.Field(ge=1)]

Owner = Annotated[str, pydantic.Field(pattern=r"^(team:[\w.-]+|[\w.+-]+@[\w-]+(\.[\w-]+)+)$")]

DecoderName = Literal["decoder_24khz", "decoder_48khz", "decoder_dual_head"]

Policy = Literal["auto", "ask", "never"]
"""Who makes an asset anew when what it is made from changed; see assets/policies.py."""


class Section(pydantic.BaseModel):
    """A part of the settings: unknown keys are refused, values do not change."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


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


class UiSettings(Section):
    """What the Dagster UI tells of every asset."""

    owners: list[Owner] = ["team:speech"]
    """Whom to ask, shown on every asset: e-mail addresses, or teams as `team:name`."""
    code_url: str | None = None
    """Where the project's folder is on the web, e.g. https://github.com/me/snac-pipeline/blob/main; null: assets link
    to their files on this machine."""


class PolicySettings(Section):
    """What happens to each asset when what it is made from changed; docs/operating.md says what the words mean."""

    manifest: Policy = "auto"
    """The manifest and the quarantine of a corpus: scanning it."""
    splits: Policy = "auto"
    base_codec: Policy = "auto"
    code_cache: Policy = "auto"
    restored_audio: Policy = "ask"
    decoder_24khz: Policy = "ask"
    decoder_48khz: Policy = "ask"
    decoder_dual_head: Policy = "ask"
    evaluation: Policy = "ask"
    token_statistics: Policy = "auto"
    token_sequences: Policy = "ask"
    bpe_tokenizer: Policy = "ask"


class AutomationSettings(Section):
    """What is done without being asked; see docs/operating.md."""

    running: bool = False
    """Whether the schedule and the sensors begin switched on; what the UI is told later counts more."""
    schedule: str | None = "0 2 * * *"
    """When to look for changed recordings, as a cron expression (minute, hour, day, month, weekday); null: never."""
    timezone: str = "UTC"
    """Of the schedule, e.g. Europe/Berlin."""
    watch: bool = True
    """Whether there is a sensor that looks for changed recordings all the time."""
    interval_seconds: int = pydantic.Field(60, ge=1)
    """How often the sensors look."""
    quiet_seconds: float = pydantic.Field(300.0, ge=0)
    """A corpus in which a file changed so recently is being copied to, perhaps: it is left for later."""
    policies: PolicySettings = PolicySettings()

    @pydantic.field_validator("schedule")
    @classmethod
    def _cron(cls, schedule: str | None) -> str | None:
        if schedule is not None and not is_cron(schedule):
            raise ValueError(
                f"{schedule!r} is not a cron expression: five fields of numbers (minute, hour, day, month, weekday), "
                "such as '0 2 * * *' for every night at two; null for no schedule"
            )
        return schedule

    @pydantic.field_validator("timezone")
    @classmethod
    def _zone(cls, timezone: str) -> str:
        try:
            zoneinfo.ZoneInfo(timezone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # unknown; not a name; a folder of names
            raise ValueError(
                f"{timezone!r} is not the name of a time zone; give one such as UTC or Europe/Berlin"
            ) from None
        return timezone


_CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def is_cron(text: str) -> bool:
    """Whether `text` is a cron expression of five fields: lists of `*`, numbers and ranges, and steps of these."""
    fields = text.split()
    return len(fields) == 5 and all(map(_is_cron_field, fields, _CRON_FIELDS))


def _is_cron_field(field: str, allowed: tuple[int, int]) -> bool:
    for item in field.split(","):
        parts = re.fullmatch(r"(?:\*|([0-9]+)(?:-([0-9]+))?)(?:/([0-9]+))?", item)
        if parts is None:
            return False
        first, last, step = (int(number) if number else None for number in parts.groups())
        low, high = allowed if first is None else (first, first if last is None else last)
        if not allowed[0] <= low <= high <= allowed[1]:
            return False
        if step is not None and (not 1 <= step <= allowed[1] or (first is not None and last is None)):
            return False
    return True


class GarbageSettings(Section):
    """What is kept when garbage is collected, beside all that is needed."""

    keep: int = pydantic.Field(3, ge=0)
    """The newest so many runs of each phase, evaluations, and token results of each kind, needed or not."""


def _variable_name(value: Any) -> Any:
    """Refuse what is no name of an environment variable, without repeating it: it may be the secret itself."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
        return value
    raise ValueError(
        "give the name of an environment variable, such as SLACK_WEBHOOK, and put the address or password into that "
        "variable: this file is no place for it"
    )


VariableName = Annotated[str, pydantic.BeforeValidator(_variable_name)]


class EmailSettings(Section):
    """E-mail, by the names of environment variables that hold what it takes: all three, or none."""

    server: VariableName | None = None
    """Variable with the server, as smtp://user:password@host:587 or smtps://..."""
    sender: VariableName | None = None
    """Variable with the address that the e-mail comes from."""
    recipients: VariableName | None = None
    """Variable with the addresses that it goes to, with commas between them."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _keys_only(cls, value: Any) -> Any:
        if not isinstance(value, dict | EmailSettings):  # pydantic's own words would repeat it
            raise ValueError(
                "has the keys server, sender and recipients, each with the name of an environment variable"
            )
        return value

    @pydantic.model_validator(mode="after")
    def _all_or_none(self) -> "EmailSettings":
        if len({value is None for value in (self.server, self.sender, self.recipients)}) > 1:
            raise ValueError("e-mail needs all of server, sender and recipients")
        return self


class NotificationSettings(Section):
    """Who is told of runs that fail. Here are names of environment variables only, never what they hold."""

    webhook: VariableName | None = None
    """Variable with an address that gets JSON of every run that fails: job, run_id, step, error, machine, text."""
    slack: VariableName | None = None
    """Variable with the address of a Slack incoming webhook."""
    email: EmailSettings = EmailSettings()

    @property
    def channels(self) -> list[str]:
        """Those that are named."""
        named = {"webhook": self.webhook, "slack": self.slack, "email": self.email.server}
        return [channel for channel, variable in named.items() if variable is not None]


class Settings(Section):
    """All of pipeline.yaml. See the comments in the file that comes with the project."""

    home: Path = Path("work")
    """Where everything is written."""
    corpora: dict[str, CorpusSettings] = pydantic.Field(min_length=1)
    """The recordings, by a name of letters, digits, "-" and "_"; required."""
    limit: int | None = pydantic.Field(None, ge=1)
    """Use at most this many files of each corpus, spread over its speakers, for a quick try."""
    split: SplitSettings = SplitSettings()
    base_codec: BaseCodecSettings = BaseCodecSettings()
    devices: list[str] = pydantic.Field(default_factory=list)
    """Devices such as "cuda:0" or "cpu"; empty: every GPU, or the CPU where there is none."""
    when_taken: WhenTaken = "warn"
    """What a step does about a GPU that another step of yours, or somebody else, is on; caching takes the free ones."""
    caching: CachingSettings = CachingSettings()
    restorer: RestorerSettings = RestorerSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    tokens: TokenSettings = TokenSettings()
    ui: UiSettings = UiSettings()
    automation: AutomationSettings = AutomationSettings()
    garbage: GarbageSettings = GarbageSettings()
    notifications: NotificationSettings = NotificationSettings()

    @pydantic.field_validator("corpora")
    @classmethod
    def _plain_names(cls, corpora: dict[str, CorpusSettings]) -> dict[str, CorpusSettings]:
        for name in corpora:
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"corpus name {name!r}: use letters, digits, '-' and '_' (it names files)")
        return _divided(corpora)


def _divided(corpora: dict[str, CorpusSettings]) -> dict[str, CorpusSettings]:
    """Every corpus with one path: ready-made folders are corpora of their own."""
    found: dict[str, CorpusSettings] = {}
    for name, corpus in corpora.items():
        for one, settings in corpus.by_side(name).items():
            if one in found or (one != name and one in corpora):
                raise ValueError(f"corpus {one!r} is there twice: a folder of {name!r} is called so; rename one")
            found[one] = settings
    return found


def settings_path(path: str | Path | None = None) -> Path:
    """The settings file in use: `path`, else $SNAC_PIPELINE_SETTINGS, else ./pipeline.yaml."""
    return Path(path or os.environ.get(SETTINGS_VARIABLE) or "pipeline.yaml")


def naming_words(path: str | Path | None = None) -> list[str]:
    """How the settings file in use is named on a command line: not at all where it is ./pipeline.yaml, else by its
    place below the current folder or the user's own, where it is in one of them."""
    file = settings_path(path).absolute()
    if file == Path.cwd() / "pipeline.yaml":
        return []
    if file.is_relative_to(Path.cwd()):
        return ["--settings", shlex.quote(str(file.relative_to(Path.cwd())))]
    if file.is_relative_to(Path.home()):
        return ["--settings", f"~/{shlex.quote(str(file.relative_to(Path.home())))}"]
    return ["--settings", shlex.quote(str(file))]


def load_settings(path: str | Path | None = None) -> Settings:
    """Read, check and resolve the settings.

    Raises PipelineError that names the file, the key and what is wrong with it.
    """
    file = settings_path(path)
    if not file.exists():
        raise PipelineError(
            f"the settings file {file} does not exist; name yours with --settings FILE or ${SETTINGS_VARIABLE}, or run "
            "this in the folder of pipeline.yaml"
        )
    settings = _resolve(parse_model(Settings, read_yaml(file), str(file)), file.resolve().parent)
    if devices := os.environ.get(DEVICES_VARIABLE, "").replace(",", " ").split():
        return settings.model_copy(update={"devices": devices})
    return settings


def _resolve(settings: Settings, root: Path) -> Settings:
    """Make every relative path count from `root`. A model's source that is a folder below `root` is taken as one."""

    def absolute(path: Path) -> Path:
        return root / path.expanduser()

    def recipe(path: Path) -> Path:
        """Beside the settings file, or else, when none is there, the project's own."""
        own, shipped = absolute(path), PROJECT / path
        return shipped if not own.exists() and shipped.exists() else own

    def located(path: str) -> str:
        return path if "://" in path else str(absolute(Path(path)))

    training = settings.training.model_copy(
        update={
            "decoders": {
                name: decoder.model_copy(update={"recipe": recipe(decoder.recipe)})
                for name, decoder in settings.training.decoders.items()
            },
            "overlay": settings.training.overlay and recipe(settings.training.overlay),
        }
    )
    corpora = {
        name: corpus.model_copy(
            update={
                key: place and located(place) for key, place in (("path", corpus.path), ("metadata", corpus.metadata))
            }
        )
        for name, corpus in settings.corpora.items()
    }
    evaluation = settings.evaluation.model_copy(
        update={
            "scorers": {
                name: scorer.model_copy(update={"file": absolute(scorer.file)})
                for name, scorer in settings.evaluation.scorers.items()
            },
            "recogniser": settings.evaluation.recogniser and absolute(settings.evaluation.recogniser),
        }
    )
    models = {
        name: model.model_copy(update={"source": str(absolute(Path(model.source)))})
        for name, model in (("base_codec", settings.base_codec), ("restorer", settings.restorer))
        if model.source is not None and absolute(Path(model.source)).is_dir()
    }
    return settings.model_copy(
        update={
            "home": absolute(settings.home),
            "corpora": corpora,
            "training": training,
            "evaluation": evaluation,
            **models,
        }
    )


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file's mapping. Numbers such as 1e-4, which YAML 1.1 takes for text, are numbers here.

    A key that is there twice is an error, not, as in YAML, a way to lose the first.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise PipelineError(f"{file} does not exist; give the path of a YAML file") from error
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}; give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PipelineError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds a {type(content).__name__}"
        raise PipelineError(f"{file} {found}; it must hold `key: value` lines")
    return content


def parse_model(model: type[Model], content: dict[str, Any], source: str) -> Model:
    """`content` as a `model`; PipelineError lists every wrong key with its place in `source`."""
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "the file"
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key `{key}` (known here: {', '.join(_known_keys(model, problem['loc'][:-1]))})")
            else:
                lines.append(f"`{key}`: {_words(problem)}")
        raise PipelineError(f"{source}: " + "; ".join(lines)) from error


def _words(problem: ErrorDetails) -> str:
    """What is wrong with a value, in words of YAML, not of Python."""
    match problem["type"]:
        case "missing":
            return "is missing"
        case "value_error":
            return str(problem["ctx"]["error"])
        case "model_type" | "dict_type":
            return f"must hold `key: value` lines, not {problem['input']!r}"
        case "list_type":
            return f"must be a list, such as [{problem['input']}], not {problem['input']!r}"
        case _:
            return problem["msg"]


def _known_keys(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """Field names at `place` below `kind`: a section, or a list or mapping of sections."""
    if not (isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)):  # list[Stage], dict[str, Head]
        return _known_keys(get_args(kind)[-1], place[1:])
    if not place:
        return list(kind.model_fields)
    return _known_keys(kind.model_fields[str(place[0])].annotation, place[1:])


class _Loader(yaml.SafeLoader):
    """SafeLoader that also reads 1e-4 as a number and refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for name, _ in node.value:
            key = str(name.value)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key `{key}` is there twice", problem_mark=name.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
