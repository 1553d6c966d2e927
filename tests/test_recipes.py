"""docs/recipes.md is about the fields of recipes and of older configs, and about no others."""

from pathlib import Path

import pytest
from documented import default_of, keys, rows_of

from snac_pipeline.training.importing import OlderConfig, names_of
from snac_pipeline.training.recipe import Recipe, load_recipe

REPOSITORY = Path(__file__).parents[1]
DOCUMENT = REPOSITORY / "docs" / "recipes.md"
FIELDS = rows_of(DOCUMENT, "Fields")
OLDER = rows_of(DOCUMENT, "Recipes of older scripts")
SHIPPED = ("phase10", "phase11", "phase12", "scratch")


def test_every_field_is_explained_and_no_other():
    assert list(FIELDS) == list(keys(Recipe))
    assert all(len(cells) == 4 and len(cells[-1]) > 8 for cells in FIELDS.values())


@pytest.mark.parametrize("key", keys(Recipe))
def test_the_default_that_is_written_is_the_default_and_so_is_what_becomes_of_the_run(key):
    _, default, run, _ = FIELDS[key]
    assert default.strip("`") == default_of(keys(Recipe)[key])
    identity = load_recipe(REPOSITORY / "recipes" / "phase10.yaml").identity()
    assert run == ("new" if key.split(".")[0].removesuffix("[]") in identity else "same")


def test_every_key_of_older_configs_is_explained_as_the_code_does():
    assert list(OLDER) == list(OlderConfig.model_fields)
    for key, (also, meaning) in OLDER.items():
        assert [name.strip("`") for name in also.split(", ") if name] == names_of(key)[1:]
        assert meaning == " ".join(OlderConfig.model_fields[key].description.split())


@pytest.mark.parametrize(
    "overlay", [None, "recipes/demo.yaml", "examples/first-run-recipes.yaml"], ids=["plain", "demo", "first-run"]
)
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipes_and_overlays_are_right(name, overlay):
    recipe = load_recipe(REPOSITORY / "recipes" / f"{name}.yaml", overlay and REPOSITORY / overlay)
    assert recipe.phase == name
    assert {path.stem for path in (REPOSITORY / "recipes").glob("*.yaml")} == {*SHIPPED, "demo"}


def test_the_recipe_of_the_examples_is_right():
    assert load_recipe(REPOSITORY / "examples" / "base-codec-longer.yaml").phase == "scratch"
