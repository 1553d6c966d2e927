"""From a decoder's name or a run to a codec folder for others, and to the hub."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snac_pipeline import evaluation as ev
from snac_pipeline.codec import weights_digest
from snac_pipeline.codec.hub import push
from snac_pipeline.errors import PipelineError
from snac_pipeline.files import read_json
from snac_pipeline.settings import Settings
from snac_pipeline.steps.codes import base_codec, codes_fingerprint
from snac_pipeline.steps.corpus import OnEvent
from snac_pipeline.steps.training import decoder_run
from snac_pipeline.training.export import Card, export_run

HUB = "hub:"


@dataclass(frozen=True)
class Wanted:
    """What to export, and how: the arguments of `snac-pipeline export`."""

    run: str
    """A decoder of the settings, a run's name, or a run's folder."""
    to: str
    """A folder, or hub:owner/name."""
    head: int | None = None
    license: str | None = None
    force: bool = False
    push: bool = False
    private: bool = False

    def command(self, run: Path) -> str:
        """What to type to get the same again, with the run by its name, which does not change."""
        values = {"--head": self.head, "--license": self.license}
        flags = {"--push": self.push, "--private": self.private}
        words = ["snac-pipeline", "export", run.name, "--to", self.to]
        words += [word for name, value in values.items() if value is not None for word in (name, str(value))]
        return shlex.join([*words, *(name for name, given in flags.items() if given)])


def export(settings: Settings, wanted: Wanted, on_event: OnEvent) -> dict[str, Any]:
    """Write the folder, for the hub one in <home>/exports, and upload it when asked to.

    Raises PipelineError when there is no such finished run, the folder is something else, or the hub does not take it.
    """
    name = wanted.to.removeprefix(HUB) if wanted.to.startswith(HUB) else None
    if (wanted.push or wanted.private) and name is None:
        raise PipelineError("--push and --private are for the hub; give --to hub:owner/name")
    if name is not None and (name.count("/") != 1 or ".." in name or not all(name.split("/"))):
        raise PipelineError(f"{wanted.to} names no place on the hub; give --to hub:owner/name")
    run = _run_folder(settings, wanted.run)
    folder = settings.home / "exports" / name.replace("/", "--") if name else Path(wanted.to).expanduser().resolve()
    base_model, base_digest = _base_of(settings, run)
    card = Card(
        title=(name or folder.name).split("/")[-1],
        source=name or folder.name,
        command=wanted.command(run),
        license=wanted.license,
        base_model=base_model,
        base_digest=base_digest,
        evaluation=_evaluation_of(settings.home, run),
    )
    result = export_run(run, folder, card, head=wanted.head, force=wanted.force)
    if name is None:
        return result
    if not wanted.push:
        on_event({"message": f"nothing was uploaded: {folder} is what --push would upload to {name}"})
        return {**result, "pushed": None}
    on_event({"message": f"uploading {', '.join(result['files'])} to {name}"})
    message = f"{run.name}: weights {result['weights_digest'][:12]}, exported by snac-pipeline"
    return {**result, "pushed": push(folder, name, message, private=wanted.private)}


def _run_folder(settings: Settings, what: str) -> Path:
    if what in settings.training.decoders:
        run = decoder_run(settings, what)
        if run.result() is None:
            raise PipelineError(f"{what} is not trained yet; run `snac-pipeline train {what}` first")
        return run.folder
    for folder in (settings.home / "runs" / what, Path(what).expanduser()):
        if (folder / "recipe.yaml").is_file():
            return folder.resolve()
    raise PipelineError(
        f"{what} is no decoder of the settings ({', '.join(settings.training.decoders)}), no run in "
        f"{settings.home / 'runs'} and no run's folder; `snac-pipeline status` lists the runs"
    )


def _base_of(settings: Settings, run: Path) -> tuple[str | None, str | None]:
    """Hub id and weights digest of the base codec, where it is the one whose codes the run was trained on."""
    fingerprint = read_json(run / "inputs.json")["inputs"]["codes_fingerprint"]
    if fingerprint is None:
        return None, None
    model, _ = base_codec(settings)
    if codes_fingerprint(settings, model) != fingerprint:
        return None, None
    source = settings.base_codec.source
    return None if Path(source).is_dir() else source, weights_digest(model.state_dict())


def _evaluation_of(home: Path, run: Path) -> list[dict[str, Any]]:
    """The newest evaluation's figures of the run's model beside the base codec, at the model's own rates."""
    labels = {metric.name: metric.label + (f", {metric.unit}" if metric.unit else "") for metric in ev.METRICS}
    files = (home / "evaluation").glob("*/summary.json")
    for file in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        summary = read_json(file)
        for key, value in summary["versions"].items():
            if key.startswith("runs · ") and value == run.name:
                decoder = key.removeprefix("runs · ")
                return [
                    {**row, "label": labels.get(row["metric"], row["metric"])}
                    for row in summary["metrics"]
                    if (row["model"] == decoder or row["model"].startswith(f"{decoder} at "))
                    and row["difference"] is not None
                ]
    return []
