"""All of pipeline.yaml: found, read, checked, its paths made absolute."""

import os
import shlex
from pathlib import Path

import pydantic

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings.operation import (
    AutomationSettings,
    GarbageSettings,
    NotificationSettings,
    UiSettings,
    WhenTaken,
)
from snac_pipeline.settings.work import (
    BaseCodecSettings,
    CachingSettings,
    CorpusSettings,
    EvaluationSettings,
    RestorerSettings,
    SplitSettings,
    TokenSettings,
    TrainingSettings,
)
from snac_pipeline.settings.yaml_files import Section, parse_model, read_yaml

PROJECT = Path(__file__).parents[2]
"""The project's folder, where its recipes are."""

SETTINGS_VARIABLE = "SNAC_PIPELINE_SETTINGS"
"""Environment variable that names the settings file to use instead of ./pipeline.yaml."""

DEVICES_VARIABLE = "SNAC_PIPELINE_DEVICES"
"""Environment variable with devices, as "cuda:0, cuda:1", to use instead of the settings' `devices`."""


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
