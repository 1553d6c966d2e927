"""Recipes: the shipped ones are the table of the project's plan, and mistakes in others are named."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_training import PHASE10, PHASE12, REPOSITORY, recipe_of

from snac_pipeline.errors import PipelineError
from snac_pipeline.files import value_digest
from snac_pipeline.training.recipe import Lesson, Losses, Recipe, load_recipe

RECIPES = REPOSITORY / "recipes"
PHASES = ("phase10", "phase11", "phase12")
GROWING = [(2, 1.0, 2.0), (2, 2.0, 1.0), (2, 3.0, 0.6)]


def shipped(name: str) -> Recipe:
    return load_recipe(RECIPES / f"{name}.yaml")


def written(tmp_path: Path, content: dict | str, name: str = "recipe.yaml") -> Path:
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


# ---- what is shipped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*PHASES, "scratch"])
def test_a_shipped_recipe_is_that_of_its_name_and_the_demo_fits_over_it(name):
    assert shipped(name).phase == name
    demo = load_recipe(RECIPES / f"{name}.yaml", RECIPES / "demo.yaml")
    assert demo.phase == name
    assert demo.epochs <= shipped(name).epochs
    assert demo.heads.keys() == shipped(name).heads.keys()


@pytest.mark.parametrize("name", [*PHASES, "scratch"])
def test_a_recipe_that_was_written_out_whole_is_the_same_recipe(tmp_path, name):
    """As a run's folder has it, and a decoder's config in Dagster."""
    content = shipped(name).model_dump(mode="json")
    assert load_recipe(written(tmp_path, content)) == shipped(name)


NATIVE_SCALES, DOUBLE_SCALES = [1024, 2048, 4096], [1024, 2048, 4096, 8192]

TABLE = {
    "phase10": {
        "stages": [(10, "cosine", {"trunk": 15e-6, "native_head": 15e-6}, {})],
        "batch_size": 48,
        "segments": [*GROWING, (4, 4.0, 0.45)],
        "batches": [96, 48, 28, 21],
        "heads": {"native": (1.0, NATIVE_SCALES)},
    },
    "phase11": {
        "stages": [
            (3, "constant", {"double_head": 5e-5}, {}),
            (12, "onecycle", {"trunk": 1e-5, "native_head": 1e-5, "double_head": 1e-5}, {}),
        ],
        "batch_size": 32,
        "segments": [(15, 4.0, 1.0)],
        "batches": [32],
        "heads": {"double": (1.0, DOUBLE_SCALES)},
    },
    "phase12": {
        "stages": [
            (1, "constant", {"double_head": 2e-4}, {"native": 0.0, "double": 1.0}),
            (14, "onecycle", {"trunk": 5e-5, "double_head": 5e-5, "native_head": 1e-5}, {}),
        ],
        "batch_size": 96,
        "segments": [*GROWING, (9, 4.0, 0.45)],
        "batches": [192, 96, 57, 43],
        "heads": {"native": (0.3, NATIVE_SCALES), "double": (1.0, DOUBLE_SCALES)},
    },
}
"""What is promised: (epochs, schedule, peak rates, head weights), (epochs, seconds, batch multiplier), the batches that
follow, rounded down, and (weight, STFT sizes)."""


@pytest.mark.parametrize("name", PHASES)
def test_a_shipped_recipe_has_the_values_of_the_table(name):
    recipe = shipped(name)
    assert TABLE[name] == {
        "stages": [(s.epochs, s.schedule, s.learning_rates, s.head_weights) for s in recipe.stages],
        "batch_size": recipe.batch_size,
        "segments": [(lesson.epochs, lesson.seconds, lesson.batch_multiplier) for lesson in recipe.curriculum],
        "batches": [lesson.batch_of(recipe.batch_size) for lesson in recipe.curriculum],
        "heads": {head: (options.weight, options.n_ffts) for head, options in recipe.heads.items()},
    }
    assert recipe.losses == Losses(l1=1.0, magnitude=1.0, log_magnitude=0.0, mel=0.0, compat=False)
    assert (recipe.optimizer.grad_clip, recipe.optimizer.weight_decay) == (1.0, 1e-4)
    assert (recipe.trains_codes, recipe.codec) == (False, None)
    assert recipe.detach_native == (name == "phase12")
    assert name != "phase10" or recipe.stages[0].final_fraction == 0.1


def test_the_recipe_from_scratch_trains_every_part_and_starts_codebooks():
    recipe = shipped("scratch")
    assert set(recipe.stages[0].learning_rates) == {"encoder", "quantizer", "trunk", "native_head"}
    assert recipe.codebooks.start_step > 0 and recipe.codebooks.restart_every > 0
    assert recipe.losses.commitment > 0 and recipe.losses.codebook > 0


@given(batch_size=st.integers(1, 500), hundredths=st.integers(1, 400))
def test_a_batch_is_rounded_down_as_decimals_are(batch_size, hundredths):
    """In binary 100 x 0.29 is 28.999999999999996."""
    lesson = Lesson(epochs=1, seconds=1.0, batch_multiplier=hundredths / 100)
    assert lesson.batch_of(batch_size) == batch_size * hundredths // 100


# ---- mistakes ------------------------------------------------------------------------------------------------------

MISTAKES = {
    "unknown key": ({"batchsize": 4}, "unknown key `batchsize`"),
    "unknown key inside": ({"optimizer": {"lr": 1e-3}}, r"unknown key `optimizer\.lr` \(known here: betas, "),
    "unknown key in a list": (
        {"curriculum": [{"epochs": 3, "seconds": 1.0, "length": 2}]}, r"unknown key `curriculum\.0\.length`",
    ),
    "unknown group": (
        {"stages": [{"name": "a", "epochs": 3, "learning_rates": {"decoder": 1e-3}}]},
        r"stages\.0\.learning_rates\.decoder",
    ),
    "epochs differ": ({"curriculum": [{"epochs": 2, "seconds": 1.0}]}, "stages have 3 epochs.*curriculum 2"),
    "head without a place": (
        {"stages": [{"name": "a", "epochs": 3, "learning_rates": {"double_head": 1e-3}}]}, "heads has no `double`",
    ),
    "weight of no head": (
        {"stages": [{**PHASE10["stages"][0], "head_weights": {"double": 1.0}}]}, "head_weights.*double",
    ),
    "nothing to learn from": (
        {"stages": [{**PHASE10["stages"][0], "head_weights": {"native": 0.0}}]}, "no head.*weight|weight.*0",
    ),
    "negative rate": (
        {"stages": [{"name": "a", "epochs": 3, "learning_rates": {"trunk": -1e-3}}]}, r"stages\.0\.learning_rates",
    ),
    "encoder alone": (
        {"stages": [{"name": "a", "epochs": 3, "learning_rates": {"encoder": 1e-3}}]}, "the quantizer is not",
    ),
    "empty batches": ({"batch_size": 1, "curriculum": [{"epochs": 3, "seconds": 1, "batch_multiplier": 0.45}]},
                      "rounds down to 0"),
    "negative seed": ({"seed": -1}, "`seed`"),
}  # fmt: skip


@pytest.mark.parametrize("changes, said", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path, changes, said):
    file = written(tmp_path, {**PHASE10, **changes})
    with pytest.raises(PipelineError, match=said) as error:
        load_recipe(file)
    assert str(file) in str(error.value)


def test_an_overlay_for_no_phase_is_named(tmp_path):
    overlay = written(tmp_path, {"phase13": {"batch_size": 3}}, "overlay.yaml")
    with pytest.raises(PipelineError, match="phase13"):
        load_recipe(written(tmp_path, PHASE10), overlay)


def test_an_overlay_that_holds_no_fields_is_named(tmp_path):
    overlay = written(tmp_path, {"phase10": 3}, "overlay.yaml")
    with pytest.raises(PipelineError, match="phase10"):
        load_recipe(written(tmp_path, PHASE10), overlay)


def test_an_overlay_replaces_fields_and_lists_and_leaves_the_rest(tmp_path):
    overlay = written(
        tmp_path,
        {"phase10": {"losses": {"magnitude": 0.5}, "curriculum": [{"epochs": 3, "seconds": 2.0}]}},
        "overlay.yaml",
    )
    laid = load_recipe(written(tmp_path, PHASE10), overlay)
    assert (laid.losses.l1, laid.losses.magnitude, laid.losses.log_magnitude) == (1.0, 0.5, 0.1)
    assert [lesson.seconds for lesson in laid.curriculum] == [2.0]
    assert load_recipe(written(tmp_path, PHASE12), overlay) == recipe_of(PHASE12)


@pytest.mark.parametrize("text", ["1e-5", "1.0e-5", "0.00001", "1E-5", "10e-6"])
def test_numbers_are_numbers_however_they_are_written(tmp_path, text):
    content = yaml.safe_dump({**PHASE10, "optimizer": {"weight_decay": "HERE"}}).replace("HERE", text)
    assert load_recipe(written(tmp_path, content)).optimizer.weight_decay == 1e-5


@pytest.mark.parametrize("text, mode", [("on", "on"), ("off", "off"), ("'off'", "off"), ("seeded", "seeded")])
def test_noise_may_be_switched_as_yaml_switches_things(tmp_path, text, mode):
    """A bare `off` is false in YAML 1.1."""
    content = yaml.safe_dump({**PHASE10, "noise": "HERE"}).replace("HERE", text)
    assert load_recipe(written(tmp_path, content)).noise == mode


# ---- identity ------------------------------------------------------------------------------------------------------

OTHER = {
    "phase": "phase11",
    "codec": {"sampling_rate": 8000},
    "heads": {"native": {"n_ffts": [64, 128]}},
    "native_bandwidth": 0.5,
    "detach_native": True,
    "stages": [{**PHASE10["stages"][0], "schedule": "constant"}],
    "curriculum": [{"epochs": 3, "seconds": 0.5}],
    "batch_size": 5,
    "accumulate": 2,
    "precision": "bf16",
    "ema": 0.9,
    "keep_best": True,
    "losses": {"l1": 0.5},
    "optimizer": {"weight_decay": 0.0},
    "noise": "seeded",
    "noise_branch": "frozen",
    "context_frames": 0,
    "validation": {"utterances": 2, "seconds": 1.0},
    "codebooks": {"restart_every": 7},
    "seed": 1,
    "compile": True,
}


def test_every_field_that_changes_results_changes_the_identity_and_the_others_do_not():
    silent = {"checkpoints": {"every_steps": 3, "keep": 9}, "loader_workers": 2}
    assert set(OTHER) | set(silent) == set(Recipe.model_fields) - {"targets"}
    wide, native = recipe_of(PHASE12), recipe_of(PHASE12, targets="native")  # which phase 10 has no head for
    assert value_digest(wide.identity()) != value_digest(native.identity())
    identity = value_digest(recipe_of(PHASE10).identity())
    assert value_digest(recipe_of(PHASE10, **silent).identity()) == identity
    others = [value_digest(recipe_of(PHASE10, **{field: value}).identity()) for field, value in OTHER.items()]
    assert len({identity, *others}) == 1 + len(OTHER)
