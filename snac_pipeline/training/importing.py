"""Recipes from the JSON configs of older fine-tuning scripts for this codec.

In: a flat JSON object whose keys are the fields of `OlderConfig`. Out: a recipe, checked like any other, and the lines
of pipeline.yaml for what is not a recipe's to say. Nothing is dropped without a word: a key that is not known is an
error.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pydantic
import yaml

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import write_text
from snac_pipeline.settings import Section, parse_model
from snac_pipeline.training.recipe import Recipe

PhaseName = Literal["phase10", "phase11", "phase12"]

Positive = Annotated[float, pydantic.Field(gt=0)]
Weight = Annotated[float, pydantic.Field(ge=0)]
Count = Annotated[int, pydantic.Field(ge=0)]
Scales = Annotated[list[int], pydantic.Field(min_length=1)]


def _also(*names: str) -> Any:
    """An optional key that is found under any of these names."""
    return pydantic.Field(None, validation_alias=pydantic.AliasChoices(*names))


class OlderLesson(Section):
    """An entry of an older config's curriculum."""

    epochs: int
    length: float
    batch_multiplier: float = 1.0


class OlderConfig(Section):
    """The keys that are understood, each with what it becomes; all may be left out, and are then as in the shipped
    recipe of the phase."""

    phase: Literal[10, 11, 12, "10", "11", "12", "phase10", "phase11", "phase12"] | None = None
    """The phase, where `--phase` does not say it."""
    num_epochs: int | None = _also("num_epochs", "epochs")
    """Epochs in all, warm-up included; a curriculum that is not given too is cut, or its last segments go on."""
    warmup_epochs: Count | None = None
    """So many of them train the new 48 kHz head alone (phases 11 and 12)."""
    curriculum: list[OlderLesson] = pydantic.Field(default_factory=list)
    """A list of {epochs, length, batch_multiplier}, length in seconds: `curriculum`, with `seconds` for `length`."""
    segment_length: Positive | None = _also("segment_length", "segment_seconds")
    """Seconds: a curriculum of one length."""
    batch_size: int | None = None
    """`batch_size`."""
    gradient_accumulation_steps: Annotated[int, pydantic.Field(ge=1)] | None = _also(
        "gradient_accumulation_steps", "accumulation_steps"
    )
    """`accumulate`."""
    precision: Literal["fp32", "bf16", "no"] | None = _also("precision", "mixed_precision")
    """`precision`; "no" is fp32."""
    ema_decay: Annotated[float, pydantic.Field(gt=0, lt=1)] | None = None
    """`ema`."""
    learning_rate: Weight | None = _also("learning_rate", "lr", "main_lr")
    """Peak rate of every part in the main stage; in phase 12 of all but the 24 kHz head."""
    head_24khz_lr: Weight | None = _also("head_24khz_lr", "lr_24khz")
    """Peak rate of the 24 kHz head (last Snake and conv) in the main stage, where it has one of its own."""
    warmup_lr: Weight | None = _also("warmup_lr", "warmup_learning_rate")
    """Rate of the 48 kHz head in the warm-up (phases 11 and 12)."""
    scheduler: Literal["constant", "cosine", "onecycle"] | None = _also("scheduler", "lr_scheduler", "schedule")
    """`schedule` of the main stage."""
    min_lr: Weight | None = None
    """Where a cosine ends: `final_fraction`, as this rate over learning_rate."""
    freeze_encoder: bool | None = None
    """false: the encoder has the main learning rate too, and audio is the input instead of cached codes (phase 10)."""
    freeze_quantizer: bool | None = _also("freeze_quantizer", "freeze_vq")
    """The same for the quantizer; where it is not given it follows `freeze_encoder`."""
    n_ffts: Scales | None = None
    """STFT sizes of every head."""
    n_ffts_24khz: Scales | None = None
    """STFT sizes of the 24 kHz head."""
    n_ffts_48khz: Scales | None = None
    """STFT sizes of the 48 kHz head."""
    loss_weight_24khz: Weight | None = None
    """`heads.native.weight`."""
    loss_weight_48khz: Weight | None = None
    """`heads.double.weight`."""
    l1_weight: Weight | None = None
    """`losses.l1`."""
    stft_weight: Weight | None = None
    """`losses.magnitude`, which has a window here."""
    log_stft_weight: Weight | None = None
    """`losses.log_magnitude`."""
    mel_weight: Weight | None = None
    """`losses.mel`."""
    weight_decay: Weight | None = None
    """`optimizer.weight_decay`."""
    betas: tuple[float, float] | None = None
    """`optimizer.betas`."""
    grad_clip: Positive | None = _also("grad_clip", "grad_clip_norm", "max_grad_norm")
    """`optimizer.grad_clip`."""
    seed: Count | None = None
    """`seed`."""
    num_workers: Count | None = None
    """`loader_workers`."""
    compile: bool | None = None
    """`compile`."""
    train_data: str | None = None
    """pipeline.yaml: the folder of recordings to train on."""
    val_data: str | None = None
    """pipeline.yaml: the folder of recordings that are held out."""
    output_dir: str | None = None
    """pipeline.yaml: `home`."""
    device: str | list[str] | None = _also("device", "devices")
    """pipeline.yaml: `devices`."""
    base_model: str | None = _also("base_model", "pretrained_model", "model_name")
    """pipeline.yaml: `base_codec.source`."""
    limit: Annotated[int, pydantic.Field(ge=1)] | None = None
    """pipeline.yaml: `training.limit`."""


def names_of(field: str) -> list[str]:
    """The names that an older config may use for one of the fields of `OlderConfig`."""
    alias = OlderConfig.model_fields[field].validation_alias
    return [str(name) for name in alias.choices] if isinstance(alias, pydantic.AliasChoices) else [field]


@dataclass(frozen=True)
class Imported:
    """What an older config says: in a recipe, in pipeline.yaml, and what was left out because it was asked for."""

    source: str
    content: dict[str, Any]
    """The recipe's fields, as a recipe file holds them."""
    pipeline: dict[str, Any]
    ignored: list[str]

    @property
    def recipe(self) -> Recipe:
        """The recipe, whole."""
        return parse_model(Recipe, self.content, f"{self.source} as a recipe")

    def pipeline_lines(self) -> str:
        """The lines of pipeline.yaml."""
        return yaml.safe_dump(self.pipeline, sort_keys=False, allow_unicode=True) if self.pipeline else "(nothing)\n"

    def text(self) -> str:
        """A recipe file, with the lines of pipeline.yaml in comments above."""
        comments = [f"From {self.source}."]
        if self.ignored:
            comments.append(f"Left out: {', '.join(self.ignored)}.")
        if self.pipeline:
            comments += ["What it said that belongs in pipeline.yaml (paths there count from the folder of that file):"]
            comments += [f"    {line}" for line in self.pipeline_lines().splitlines()]
        above = "".join(f"# {line}\n" for line in comments)
        return above + yaml.safe_dump(
            self.content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120
        )


def import_config(file: Path, phase: PhaseName | None, ignored: Sequence[str] = ()) -> Imported:
    """Read an older config. phase: where the file does not say it. ignored: its keys that are to be left out.

    Raises PipelineError naming the file and the key that is unknown, wrong, or contradicts another.
    """
    content = _read_object(file)
    for key in ignored:
        if key not in content:
            raise PipelineError(f"{file} has no key `{key}` to ignore; it has {', '.join(content)}")
    content = {key: value for key, value in content.items() if key not in ignored}
    _check_names(content, file)
    old = parse_model(OlderConfig, content, str(file))
    told = None if old.phase is None else f"phase{str(old.phase).removeprefix('phase')}"
    if told and phase and told != phase:
        raise PipelineError(f"{file} is for {told}, but --phase says {phase}; leave out one of the two")
    its_phase = phase or told
    if its_phase is None:
        raise PipelineError(f"{file} does not say which phase it is for; give --phase {'|'.join(get_args(PhaseName))}")
    _refuse_keys_of_other_phases(old, content, its_phase, file)
    recipe = _recipe_content(old, its_phase, file)
    parse_model(Recipe, recipe, f"{file} as a recipe")
    return Imported(file.name, recipe, _pipeline_content(old), list(ignored))


def write_imported(imported: Imported, output: Path) -> None:
    """Write the recipe file; PipelineError where there is a file already."""
    if output.exists():
        raise PipelineError(f"{output} is there already and is not overwritten; give another --output, or move it away")
    write_text(output, imported.text())


def _read_object(file: Path) -> dict[str, Any]:
    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"the key `{sorted(twice)[0]}` is there twice")
        return dict(items)

    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=pairs)
    except FileNotFoundError as error:
        raise PipelineError(f"{file} does not exist; give the path of an older script's JSON config") from error
    except OSError as error:
        raise PipelineError(f"{file} cannot be read: {error.strerror}; give the path of a JSON config") from error
    except ValueError as error:
        raise PipelineError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{file} holds a {type(content).__name__}; it must hold one JSON object of keys and values")
    return content


def _check_names(content: dict[str, Any], file: Path) -> None:
    known = {field: names_of(field) for field in OlderConfig.model_fields}
    every = [name for names in known.values() for name in names]
    if unknown := [key for key in content if key not in every]:
        raise PipelineError(
            f"{file}: unknown key `{unknown[0]}` (known here: {', '.join(every)}); --ignore {unknown[0]} leaves it out"
        )
    for names in known.values():
        given = [name for name in names if name in content]
        if len(given) > 1:
            raise PipelineError(f"{file}: `{given[0]}` and `{given[1]}` mean the same; leave out one of them")


def _refuse_keys_of_other_phases(old: OlderConfig, content: dict[str, Any], phase: str, file: Path) -> None:
    """A key that would change nothing is not taken in silence."""
    meaningless = {
        "phase10": ("warmup_epochs", "warmup_lr", "n_ffts_48khz", "loss_weight_48khz"),
        "phase11": ("n_ffts_24khz", "loss_weight_24khz"),
        "phase12": (),
    }[phase]
    for field in meaningless:
        if getattr(old, field):
            [name] = [name for name in names_of(field) if name in content]
            raise PipelineError(f"{file}: `{name}` means nothing in {phase}; --ignore {name} leaves it out")


# ---- what an older config says of a recipe -------------------------------------------------------------------------

GROWING = [(2, 1.0, 2.0), (2, 2.0, 1.0), (2, 3.0, 0.6)]
NATIVE_SCALES, DOUBLE_SCALES = [1024, 2048, 4096], [1024, 2048, 4096, 8192]


@dataclass(frozen=True)
class _Shipped:
    """The numbers of a shipped recipe, recipes/<phase>.yaml, that an older config may replace."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    curriculum: list[tuple[int, float, float]]
    heads: dict[str, dict[str, Any]]
    warmup_epochs: int = 0
    warmup_lr: float = 0.0
    native_lr: float | None = None
    """Of the 24 kHz head, where it is not that of the others."""


SHIPPED: dict[str, _Shipped] = {
    "phase10": _Shipped(
        10, 48, 15e-6, "cosine", [*GROWING, (4, 4.0, 0.45)], {"native": {"weight": 1.0, "n_ffts": NATIVE_SCALES}}
    ),
    "phase11": _Shipped(
        15, 32, 1e-5, "onecycle", [(15, 4.0, 1.0)], {"double": {"weight": 1.0, "n_ffts": DOUBLE_SCALES}}, 3, 5e-5
    ),
    "phase12": _Shipped(
        15, 96, 5e-5, "onecycle", [*GROWING, (9, 4.0, 0.45)],
        {"native": {"weight": 0.3, "n_ffts": NATIVE_SCALES}, "double": {"weight": 1.0, "n_ffts": DOUBLE_SCALES}},
        1, 2e-4, 1e-5,
    ),
}  # fmt: skip


def _recipe_content(old: OlderConfig, phase: str, file: Path) -> dict[str, Any]:
    shipped = SHIPPED[phase]
    curriculum = _curriculum(old, shipped)
    content: dict[str, Any] = {"phase": phase, "heads": _heads(old, shipped)}
    if phase == "phase12":
        content["detach_native"] = True
    content["stages"] = _stages(old, phase, shipped, sum(lesson["epochs"] for lesson in curriculum), file)
    content["curriculum"] = curriculum
    content["batch_size"] = _given(old.batch_size, shipped.batch_size)
    content |= _present(
        accumulate=old.gradient_accumulation_steps,
        precision="fp32" if old.precision == "no" else old.precision,
        ema=old.ema_decay,
    )
    content["losses"] = {
        "l1": _given(old.l1_weight, 1.0), "magnitude": _given(old.stft_weight, 1.0),
        **_present(log_magnitude=old.log_stft_weight, mel=old.mel_weight),
    }  # fmt: skip
    content["optimizer"] = {
        "weight_decay": _given(old.weight_decay, 1e-4), "grad_clip": _given(old.grad_clip, 1.0),
        **_present(betas=old.betas and list(old.betas)),
    }  # fmt: skip
    return {**content, **_present(seed=old.seed, loader_workers=old.num_workers, compile=old.compile)}


def _heads(old: OlderConfig, shipped: _Shipped) -> dict[str, dict[str, Any]]:
    weights = {"native": old.loss_weight_24khz, "double": old.loss_weight_48khz}
    scales = {"native": old.n_ffts_24khz, "double": old.n_ffts_48khz}
    return {
        name: {
            "weight": _given(weights[name], head["weight"]),
            "n_ffts": list(_given(scales[name], _given(old.n_ffts, head["n_ffts"]))),
        }
        for name, head in shipped.heads.items()
    }


def _curriculum(old: OlderConfig, shipped: _Shipped) -> list[dict[str, Any]]:
    """The lessons that are given; or one of the given length; or the shipped ones, cut or prolonged."""
    epochs = _given(old.num_epochs, shipped.epochs)
    if old.curriculum:
        lessons = [(lesson.epochs, lesson.length, lesson.batch_multiplier) for lesson in old.curriculum]
    elif old.segment_length is not None:
        lessons = [(epochs, old.segment_length, 1.0)]
    else:
        lessons, left = [], epochs
        for number, (count, *rest) in enumerate(shipped.curriculum, 1):
            count = left if number == len(shipped.curriculum) else min(count, left)
            if count:
                lessons.append((count, *rest))
            left -= count
    return [
        {"epochs": count, "seconds": seconds, "batch_multiplier": multiplier} for count, seconds, multiplier in lessons
    ]


def _stages(old: OlderConfig, phase: str, shipped: _Shipped, taught: int, file: Path) -> list[dict[str, Any]]:
    epochs = _given(old.num_epochs, taught)
    warm_up = _given(old.warmup_epochs, shipped.warmup_epochs)
    if warm_up >= epochs:
        raise PipelineError(f"{file}: {warm_up} of {epochs} epochs are warm-up, which leaves none; raise num_epochs")
    rate = _given(old.learning_rate, shipped.learning_rate)
    rates = {"trunk": rate, "native_head": _given(old.head_24khz_lr, _given(shipped.native_lr, rate))}
    if phase != "phase10":
        rates["double_head"] = rate
    frozen = _given(old.freeze_encoder, True)
    if not frozen:
        rates["encoder"] = rate
    if not _given(old.freeze_quantizer, frozen):
        rates["quantizer"] = rate
    schedule = _given(old.scheduler, shipped.schedule)
    main: dict[str, Any] = {
        "name": "main", "epochs": epochs - warm_up, "learning_rates": rates, "schedule": schedule,
    }  # fmt: skip
    if schedule == "cosine":
        main["final_fraction"] = 0.1 if old.min_lr is None or not rate else old.min_lr / rate
    elif old.min_lr is not None:
        raise PipelineError(f"{file}: `min_lr` is where a cosine ends, but the schedule is {schedule}; leave it out")
    if not warm_up:
        return [main]
    first: dict[str, Any] = {
        "name": "warm-up", "epochs": warm_up, "schedule": "constant",
        "learning_rates": {"double_head": _given(old.warmup_lr, shipped.warmup_lr)},
    }  # fmt: skip
    if phase == "phase12":
        first["head_weights"] = {"native": 0.0, "double": 1.0}
    return [first, main]


def _pipeline_content(old: OlderConfig) -> dict[str, Any]:
    """What is pipeline.yaml's to say."""
    content: dict[str, Any] = {}
    if old.output_dir is not None:
        content["home"] = old.output_dir
    if old.train_data is not None and old.val_data is not None:
        content["corpora"] = {"speech": {"train_dir": old.train_data, "val_dir": old.val_data}}
    elif old.train_data is not None:
        content["corpora"] = {"speech": {"path": old.train_data}}
    elif old.val_data is not None:
        content["corpora"] = {"speech": {"path": old.val_data, "split": "val"}}
    if old.base_model is not None:
        content["base_codec"] = {"source": old.base_model}
    if old.device is not None:
        content["devices"] = [old.device] if isinstance(old.device, str) else list(old.device)
    if old.limit is not None:
        content["training"] = {"limit": old.limit}
    return content


def _given(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
