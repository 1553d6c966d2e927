"""A finished run as a codec folder for others: weights, and a card that says what they are and where they come from.

In: a run folder (see runs.py) and what only the caller knows. Out: config.json, model.safetensors, pytorch_model.bin
where the PyPI package `snac` can load the model, README.md (the card), export.json; one folder that appears whole.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from snac_pipeline.codec import SNAC, weights_digest
from snac_pipeline.codec.hub import CODEC_FILES, write_codec
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import atomic_folder, read_json, write_json, write_text
from snac_pipeline.page import flattened
from snac_pipeline.training.targets import sentence

TEMPLATE = "card.md.j2"
CARD, MARK = "README.md", "export.json"
EXPORT_FILES = CODEC_FILES | {CARD, MARK}
STOCK_PACKAGE = "snac==1.2.1"


@dataclass(frozen=True)
class Card:
    """What a model card says besides what the run itself knows."""

    title: str
    source: str
    """What to give `from_pretrained`: a hub id, or a folder."""
    command: str
    """What to type to get this export again."""
    license: str | None = None
    base_model: str | None = None
    """Hub id of the base codec, where it has one."""
    base_digest: str | None = None
    """The base codec's weights digest, where it is known."""
    evaluation: Sequence[Mapping[str, Any]] = ()
    """Rows of label, sample_rate, mean, baseline_mean, difference, low, high, pairs, resampled, verdict."""


def export_run(run: Path, folder: Path, card: Card, *, head: int | None = None, force: bool = False) -> dict[str, Any]:
    """Write the run's model into `folder`; figures of what was written.

    head: keep only the output at so many Hz. force: replace a folder whatever is in it.
    Raises PipelineError when the run is not finished, has no such head, or `folder` holds anything but an export.
    """
    if not (run / "result.json").exists():
        raise PipelineError(f"{run} is not finished; train it to its end first")
    _check_replaceable(folder, force)
    model = _with_head(SNAC.from_pretrained(run / "model"), head)
    stock = model.spec == model.spec.single_head()
    facts = {
        "run": run.name,
        "weights_digest": weights_digest(model.state_dict()),
        "output_rates": list(model.spec.output_rates),
        "loads_with_snac": stock,
    }
    with atomic_folder(folder) as temporary:
        write_codec(model, temporary, pickled=stock)
        write_json(temporary / MARK, {**facts, "command": card.command})
        write_text(temporary / CARD, _render(run, model, card, facts))
        files = sorted(path.name for path in temporary.iterdir())
    return {"folder": str(folder), **facts, "files": files}


def _check_replaceable(folder: Path, force: bool) -> None:
    if folder.is_file():
        raise PipelineError(f"{folder} is a file; give a folder to export to")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and not force and (MARK not in names or names - EXPORT_FILES):
        other = min(names - EXPORT_FILES or names)
        raise PipelineError(
            f"{folder} is not an earlier export: it holds {other}; give a new folder, or --force to replace all of it"
        )


def _with_head(model: SNAC, rate: int | None) -> SNAC:
    """The model with its output at `rate` Hz only; None: as it is."""
    if rate is None:
        return model
    if rate not in model.spec.output_rates:
        rates = " and ".join(map(str, model.spec.output_rates))
        raise PipelineError(f"this model was trained to give {rates} Hz, not {rate} Hz; choose one of these heads")
    single = SNAC(dataclasses.replace(model.spec, output_rates=(rate,)))
    wanted = single.state_dict().keys()
    single.load_state_dict({key: value for key, value in model.state_dict().items() if key in wanted})
    return single.eval()


def _render(run: Path, model: SNAC, card: Card, facts: Mapping[str, Any]) -> str:
    result = read_json(run / "result.json")
    used = result["train_utterances"] + result["val_utterances"]
    front = {
        "license": card.license,
        "library_name": "snac" if facts["loads_with_snac"] else "snac-pipeline",
        "pipeline_tag": "audio-to-audio",
        "tags": ["audio", "speech", "neural-audio-codec", "snac"],
        "base_model": card.base_model,
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    return environment.get_template(TEMPLATE).render(
        front=yaml.safe_dump({k: v for k, v in front.items() if v is not None}, sort_keys=False, allow_unicode=True),
        card=card,
        facts=facts,
        spec=model.spec,
        stock_package=STOCK_PACKAGE,
        result=result,
        targets=sentence(result, used) if result["targets"] else None,
        losses=[rate for rate in result["final"] if int(rate) in model.spec.output_rates],
        evaluation=[row for row in card.evaluation if row["sample_rate"] in model.spec.output_rates],
        inputs=flattened(read_json(run / "inputs.json")["inputs"], "."),
        recipe=(run / "recipe.yaml").read_text(encoding="utf-8"),
    )
