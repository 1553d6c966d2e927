"""Commands about trained decoders: train, recipe, export."""

import argparse
from pathlib import Path

from snac_pipeline.cli.arguments import Add, OnEvent, Result, device, positive
from snac_pipeline.cli.devices import devices_held
from snac_pipeline.settings import Settings


def add_train(add: Add) -> None:
    train = add(
        "train",
        _train,
        "train a decoder of the settings, or a recipe; goes on where it stopped",
        "  snac-pipeline train decoder_24khz\n  snac-pipeline train decoder_24khz --recipe tried.yaml\n"
        "  snac-pipeline train recipes/scratch.yaml\n"
        "  nohup snac-pipeline train recipes/phase12.yaml --device 0 &\n"
        "  snac-pipeline train decoder_24khz --device 0 --device 1 --resume\n"
        "  torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\\n"
        "      -m snac_pipeline.cli train decoder_24khz",
    )
    train.add_argument("what", help="decoder_24khz, decoder_48khz, decoder_dual_head, or a recipe file")
    train.add_argument(
        "--recipe", type=Path, metavar="FILE", help="train the decoder by this whole recipe, not by the settings'"
    )
    train.add_argument(
        "--device",
        action="append",
        type=device,
        metavar="DEVICE",
        help="in place of the settings' devices: a GPU's number, cuda:N or cpu (several: a process for each)",
    )
    train.add_argument("--resume", action="store_true", help="fail when there is no begun run to go on with")


def _train(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.training import train
    from snac_pipeline.training.stopping import Interrupted

    if options.device:
        settings = settings.model_copy(update={"devices": options.device})
    try:
        with devices_held(options, settings, on_event) as held:
            return train(held, options.what, on_event, options.recipe, resume=options.resume)
    except Interrupted as interrupted:
        raise KeyboardInterrupt(str(interrupted)) from interrupted


def add_recipe(add: Add) -> None:
    recipe = add(
        "recipe",
        _recipe,
        "check a recipe and show all its fields, the settings' `training.overlay` laid over it, or make one from an "
        "older script's JSON config",
        "  snac-pipeline recipe recipes/phase10.yaml\n  snac-pipeline recipe import old.json --phase phase10\n"
        "  snac-pipeline recipe import old.json --phase phase12 --output recipes/mine.yaml --ignore wandb_project",
    )
    recipe.add_argument("file", metavar="FILE | import", help="a recipe, or the word `import`")
    recipe.add_argument("old", nargs="?", type=Path, metavar="OLD.json", help="import: the older config")
    recipe.add_argument("--phase", choices=["phase10", "phase11", "phase12"], help="import: where OLD.json lacks it")
    recipe.add_argument("--output", type=Path, metavar="FILE", help="import: write the recipe, instead of printing it")
    recipe.add_argument("--ignore", action="append", default=[], metavar="KEY", help="import: leave out this key")
    recipe.set_defaults(wrong_use=recipe.error)


def _recipe(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    if options.file == "import":
        return _recipe_import(options)
    if options.old or options.phase or options.output or options.ignore:
        options.wrong_use("FILE alone shows a recipe; --phase, --output and --ignore go with `import OLD.json`")
    from snac_pipeline.training.recipe import load_recipe

    return load_recipe(options.file, settings.training.overlay).model_dump(mode="json")


def _recipe_import(options: argparse.Namespace) -> Result:
    if options.old is None:
        options.wrong_use("import needs the older script's JSON config: import OLD.json")
    from snac_pipeline.training.importing import import_config, write_imported

    imported = import_config(options.old, options.phase, options.ignore)
    if options.output is not None:
        write_imported(imported, options.output)
    if options.json:
        recipe = str(options.output) if options.output else imported.recipe.model_dump(mode="json")
        return {"recipe": recipe, "for_pipeline_yaml": imported.pipeline, "left_out": imported.ignored}
    written = f"wrote {options.output}; it says on top what belongs in pipeline.yaml:\n{imported.pipeline_lines()}"
    print(written if options.output else imported.text(), end="", flush=True)
    return {}


def add_export(add: Add) -> None:
    export = add(
        "export",
        _export,
        "a trained decoder for others: a codec folder with its model card, or a model on the hub",
        "  snac-pipeline export decoder_24khz --to exported --license cc-by-4.0\n"
        "  snac-pipeline export decoder_dual_head --to exported-24khz --head 24000\n"
        "  snac-pipeline export phase10-0123456789ab --to hub:me/my-codec --license mit --push",
    )
    export.add_argument("run", help="a decoder of the settings, a run's name, or a run's folder")
    export.add_argument("--to", required=True, metavar="DIR|hub:OWNER/NAME", help="where to; hub: uploads with --push")
    export.add_argument("--head", type=positive, metavar="HZ", help="only the output at this rate")
    export.add_argument("--license", metavar="ID", help="licence of the weights, for the card: mit, cc-by-4.0, ...")
    export.add_argument("--force", action="store_true", help="replace a folder that is no export, with all in it")
    export.add_argument("--push", action="store_true", help="upload to the hub (HF_TOKEN, or a login)")
    export.add_argument("--private", action="store_true", help="a repository that --push makes is private")


def _export(options: argparse.Namespace, settings: Settings, on_event: OnEvent) -> Result:
    from snac_pipeline.steps.export import Wanted, export

    wanted = Wanted(
        options.run, options.to, options.head, options.license, options.force, options.push, options.private
    )
    return export(settings, wanted, on_event)
