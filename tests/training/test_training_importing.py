"""JSON configs of older scripts become recipes, and lines of pipeline.yaml; nothing of them is lost without a word."""

import json

import pytest
import yaml
from made_training import REPOSITORY

from snac_pipeline.errors import PipelineError
from snac_pipeline.settings import load_settings
from snac_pipeline.training.importing import OlderConfig, import_config, names_of, write_imported
from snac_pipeline.training.recipe import Recipe, load_recipe

PHASES = ("phase10", "phase11", "phase12")


def older(tmp_path, content, name="old.json"):
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def imported(tmp_path, content, phase="phase10", ignored=()):
    return import_config(older(tmp_path, content), phase, ignored)


# ---- what becomes of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_config_that_says_nothing_is_the_shipped_recipe(tmp_path, phase):
    assert imported(tmp_path, {}, phase).recipe == load_recipe(REPOSITORY / "recipes" / f"{phase}.yaml")


def test_a_config_of_phase_10(tmp_path):
    found = imported(
        tmp_path,
        {
            "train_data": "/data/train", "val_data": "/data/val", "output_dir": "out", "n_ffts": [512, 1024],
            "freeze_encoder": True, "batch_size": 20, "learning_rate": 3e-5, "min_lr": 3e-7, "num_epochs": 6,
            "curriculum": [{"epochs": 2, "length": 1.0, "batch_multiplier": 2.0}, {"epochs": 4, "length": 3.5}],
            "l1_weight": 0.5, "stft_weight": 2.0, "grad_clip": 0.7, "weight_decay": 0.01, "seed": 42,
            "num_workers": 3, "betas": [0.8, 0.99], "accumulation_steps": 4, "mixed_precision": "no", "ema_decay": 0.99,
        },
    )  # fmt: skip
    assert found.recipe == Recipe.model_validate(
        {
            "phase": "phase10",
            "heads": {"native": {"weight": 1.0, "n_ffts": [512, 1024]}},
            "stages": [
                {
                    "name": "main", "epochs": 6, "learning_rates": {"trunk": 3e-5, "native_head": 3e-5},
                    "schedule": "cosine", "final_fraction": 3e-7 / 3e-5,
                }
            ],
            "curriculum": [
                {"epochs": 2, "seconds": 1.0, "batch_multiplier": 2.0}, {"epochs": 4, "seconds": 3.5},
            ],
            "batch_size": 20,
            "accumulate": 4,
            "precision": "fp32",
            "ema": 0.99,
            "losses": {"l1": 0.5, "magnitude": 2.0},
            "optimizer": {"betas": (0.8, 0.99), "weight_decay": 0.01, "grad_clip": 0.7},
            "seed": 42,
            "loader_workers": 3,
        }
    )  # fmt: skip
    assert found.pipeline == {
        "home": "out", "corpora": {"speech": {"train_dir": "/data/train", "val_dir": "/data/val"}},
    }  # fmt: skip


def test_a_config_of_phase_11(tmp_path):
    content = {"epochs": 8, "warmup_epochs": 2, "warmup_lr": 1e-4, "lr": 2e-5, "segment_length": 3, "phase": 11}
    recipe = imported(tmp_path, content, None).recipe
    first, main = recipe.stages
    assert (first.epochs, first.learning_rates, first.schedule) == (2, {"double_head": 1e-4}, "constant")
    assert main.learning_rates == dict.fromkeys(("trunk", "native_head", "double_head"), 2e-5)
    assert (main.epochs, main.schedule) == (6, "onecycle")
    assert [(lesson.epochs, lesson.seconds) for lesson in recipe.curriculum] == [(8, 3.0)]
    assert set(recipe.heads) == {"double"}


def test_a_config_of_phase_12(tmp_path):
    content = {
        "main_lr": 4e-5, "head_24khz_lr": 2e-5, "loss_weight_24khz": 0.5, "n_ffts_48khz": [2048], "phase": "phase12",
        "log_stft_weight": 0.25, "mel_weight": 0.75,
    }  # fmt: skip
    recipe = imported(tmp_path, content, "phase12").recipe
    first, main = recipe.stages
    assert (first.learning_rates, first.head_weights) == ({"double_head": 2e-4}, {"native": 0.0, "double": 1.0})
    assert main.learning_rates == {"trunk": 4e-5, "double_head": 4e-5, "native_head": 2e-5}
    assert {name: (head.weight, head.n_ffts) for name, head in recipe.heads.items()} == {
        "native": (0.5, [1024, 2048, 4096]), "double": (1.0, [2048]),
    }  # fmt: skip
    assert (recipe.losses.log_magnitude, recipe.losses.mel) == (0.25, 0.75)


@pytest.mark.parametrize(
    "says, trained",
    [
        ({"freeze_encoder": False}, {"encoder", "quantizer"}),
        ({"freeze_quantizer": False}, {"quantizer"}),
        ({"freeze_vq": False, "freeze_encoder": True}, {"quantizer"}),
        ({"freeze_encoder": True}, set()),
    ],
)
def test_what_is_not_frozen_has_the_main_learning_rate(tmp_path, says, trained):
    recipe = imported(tmp_path, {**says, "lr": 1e-4}).recipe
    assert recipe.stages[0].learning_rates == dict.fromkeys({"trunk", "native_head"} | trained, 1e-4)
    assert recipe.trains_codes == bool(trained)


@pytest.mark.parametrize("epochs, expected", [(3, [2, 1]), (7, [2, 2, 2, 1]), (10, [2, 2, 2, 4]), (25, [2, 2, 2, 19])])
def test_other_epochs_cut_the_shipped_curriculum_or_prolong_its_last_segments(tmp_path, epochs, expected):
    recipe = imported(tmp_path, {"num_epochs": epochs}).recipe
    assert [lesson.epochs for lesson in recipe.curriculum] == expected
    assert recipe.epochs == epochs


# ---- nothing is lost -----------------------------------------------------------------------------------------------

OTHER_VALUES = {
    "phase": 11, "num_epochs": 12, "warmup_epochs": 2, "curriculum": [{"epochs": 15, "length": 2.5}],
    "segment_length": 2.0, "batch_size": 7, "learning_rate": 1e-3, "head_24khz_lr": 1e-3, "warmup_lr": 1e-3,
    "scheduler": "constant", "min_lr": 1e-6, "freeze_encoder": False, "freeze_quantizer": False, "n_ffts": [64],
    "n_ffts_24khz": [64], "n_ffts_48khz": [64], "loss_weight_24khz": 0.9, "loss_weight_48khz": 0.9, "l1_weight": 0.9,
    "stft_weight": 0.9, "log_stft_weight": 0.9, "mel_weight": 0.9, "weight_decay": 0.9, "betas": [0.5, 0.6],
    "grad_clip": 0.9, "seed": 9, "num_workers": 2, "compile": False, "train_data": "a", "val_data": "b",
    "output_dir": "c", "device": "cpu", "base_model": "d", "limit": 5, "gradient_accumulation_steps": 4,
    "precision": "bf16", "ema_decay": 0.9,
}  # fmt: skip


@pytest.mark.parametrize("field", OlderConfig.model_fields)
def test_every_key_that_is_understood_changes_something_under_each_of_its_names(tmp_path, field):
    assert set(OTHER_VALUES) == set(OlderConfig.model_fields)
    phase = "phase10" if field == "min_lr" else "phase12"
    unlike = {"phase": {"num_epochs": 12}}.get(field, {})  # beside a phase, compare two phases
    plain = imported(tmp_path, unlike, phase)
    results = []
    for name in names_of(field):
        told = None if field == "phase" else phase
        results.append(imported(tmp_path, {**unlike, name: OTHER_VALUES[field]}, told))
    assert all((r.content, r.pipeline) != (plain.content, plain.pipeline) for r in results)
    assert all((r.content, r.pipeline) == (results[0].content, results[0].pipeline) for r in results)


MISTAKES = {
    "unknown key": ({"learning_rat": 1e-3}, "phase10", r"unknown key `learning_rat` \(known here: phase, .*--ignore"),
    "unknown key in the curriculum": (
        {"curriculum": [{"epochs": 1, "seconds": 1.0}]}, "phase10",
        r"unknown key `curriculum\.0\.seconds` \(known here: epochs, length, batch_multiplier\)",
    ),
    "no phase": ({}, None, "does not say which phase.*--phase"),
    "two phases": ({"phase": 11}, "phase12", "is for phase11, but --phase says phase12"),
    "said twice": ({"lr": 1e-3, "learning_rate": 1e-3}, "phase10", "`learning_rate` and `lr` mean the same"),
    "wrong kind": ({"batch_size": "many"}, "phase10", "`batch_size`"),
    "negative rate": ({"lr": -1.0}, "phase10", "`lr`"),
    "epochs differ": ({"num_epochs": 3, "curriculum": [{"epochs": 2, "length": 1.0}]}, "phase10",
                      "stages have 3 epochs together, the curriculum 2"),
    "all warm-up": ({"num_epochs": 3, "warmup_epochs": 3}, "phase11", "3 of 3 epochs are warm-up"),
    "warm-up without a new head": ({"warmup_epochs": 3}, "phase10", "`warmup_epochs` means nothing in phase10"),
    "an end without a cosine": ({"min_lr": 1e-7}, "phase12", "`min_lr` is where a cosine ends.*onecycle"),
    "encoder alone": ({"freeze_encoder": False, "freeze_vq": True}, "phase10", "the quantizer is not"),
    "batches of nothing": ({"batch_size": 1, "curriculum": [{"epochs": 9, "length": 1, "batch_multiplier": 0.5}]},
                           "phase10", "rounds down to 0"),
    "no JSON": ("{", "phase10", "is not valid JSON"),
    "a list": ("[1]", "phase10", "holds a list; it must hold one JSON object"),
    "a key twice": ('{"lr": 1, "lr": 2}', "phase10", "`lr` is there twice"),
}  # fmt: skip


@pytest.mark.parametrize("content, phase, said", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path, content, phase, said):
    with pytest.raises(PipelineError, match=said) as error:
        imported(tmp_path, content, phase)
    assert str(tmp_path / "old.json") in str(error.value)


def test_keys_that_are_ignored_are_named_in_the_recipe_and_have_to_be_there(tmp_path):
    found = imported(tmp_path, {"wandb_project": "x", "lr": 1e-3}, ignored=["wandb_project"])
    assert "# Left out: wandb_project." in found.text()
    with pytest.raises(PipelineError, match=r"no key `wandb` to ignore; it has wandb_project, lr"):
        imported(tmp_path, {"wandb_project": "x", "lr": 1e-3}, ignored=["wandb"])


# ---- the file ------------------------------------------------------------------------------------------------------


def test_the_written_file_is_the_recipe_and_its_comments_are_settings(tmp_path):
    found = imported(
        tmp_path,
        {"train_data": "recordings", "output_dir": "out", "device": ["cuda:1"], "base_model": "own/codec", "limit": 9},
    )
    write_imported(found, tmp_path / "new.yaml")
    assert load_recipe(tmp_path / "new.yaml") == found.recipe
    comments = [line[6:] for line in (tmp_path / "new.yaml").read_text().splitlines() if line.startswith("#     ")]
    (tmp_path / "pipeline.yaml").write_text("\n".join(comments))
    settings = load_settings(tmp_path / "pipeline.yaml")
    assert settings.corpora["speech"].path == str(tmp_path / "recordings")
    assert (settings.home, settings.devices) == (tmp_path / "out", ["cuda:1"])
    assert (settings.base_codec.source, settings.training.limit) == ("own/codec", 9)


def test_a_file_that_is_there_is_never_overwritten(tmp_path):
    (tmp_path / "new.yaml").write_text("mine")
    with pytest.raises(PipelineError, match=r"new\.yaml is there already"):
        write_imported(imported(tmp_path, {}), tmp_path / "new.yaml")
    assert (tmp_path / "new.yaml").read_text() == "mine"


@pytest.mark.parametrize("value", [1.5e-5, 1e-4, 3e-10])
def test_numbers_survive_the_file(tmp_path, value):
    text = imported(tmp_path, {"lr": value}).text()
    (tmp_path / "new.yaml").write_text(text)
    assert load_recipe(tmp_path / "new.yaml").stages[0].learning_rates["trunk"] == value
    assert yaml.safe_load(text)["phase"] == "phase10"
