"""The Launchpad: whatever can be set there for a run, a wrong value of it is refused before there is a run.

Over every config field of every job: there is no list of fields here that a new one could be missing from.
"""

import copy
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from assets.launch_config import LaunchConfig
from snac_pipeline.definitions import build_defs
from snac_pipeline.errors import PipelineError

REFUSED = (dg.DagsterInvalidConfigError, PipelineError)
Place = tuple[str | int, ...]
FREE = {("stages", i, "name") for i in range(9)} | {("codec",)}
"""A name may be any text. A codec is a mapping, or nothing: `null` is what the default has."""


@pytest.fixture
def configured(project) -> dict[str, tuple[dg.JobDefinition, dict[str, Any]]]:
    """By asset or op with config: a job that has it, and the values that it would be launched with."""
    found = {}
    for job in build_defs(project.settings_file).resolve_all_job_defs():
        resolved = dg.validate_run_config(job, {})
        for op, values in resolved["ops"].items():
            if values["config"]:
                found[op] = (job, values["config"])
    return found


def launch(job: dg.JobDefinition, op: str, config: Any) -> None:
    """What Dagster does with a config before it makes a run of it."""
    dg.validate_run_config(job, {"ops": {op: {"config": config}}})


def values_in(config: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every value below, mappings and lists too, with its place."""
    yield place, config
    for key, value in (
        config.items() if isinstance(config, dict) else enumerate(config if isinstance(config, list) else [])
    ):
        yield from values_in(value, (*place, key))


def put(config: Any, place: Place, value: Any) -> Any:
    """`config` with another value at `place`."""
    if not place:
        return value
    changed = copy.copy(config)
    changed[place[0]] = put(changed[place[0]], place[1:], value)
    return changed


def test_every_config_is_checked_by_a_model_of_ours_before_a_run_begins(project, configured):
    assert {"manifest", "unneeded_files", "decoder_24khz", "decoder_48khz", "decoder_dual_head"} == set(configured)
    for op, (job, _) in configured.items():
        assert isinstance(job.graph.node_named(op).definition.config_schema.as_field(), LaunchConfig), op


def test_a_wrong_value_of_any_field_is_refused(configured):
    tried = 0
    for op, (job, config) in configured.items():
        launch(job, op, config)  # as it is nothing is wrong with it
        for place, value in values_in(config):
            # All whole numbers and fractions of this project count something, or are a share of it.
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            wrong = [-1, float("nan")] if numeric else [[1.5], {"no": "such key"}]
            if isinstance(value, dict):
                wrong.append({**value, "no_such_key": 1})
            for one in [*wrong, "no such word", *([-1] if value is None else [])]:
                if one == "no such word" and place in FREE:
                    continue
                tried += 1
                with pytest.raises(REFUSED):
                    launch(job, op, put(config, place, one))
                    pytest.fail(f"{op} takes {one!r} at {place}, where it has {value!r}")
    assert tried > 500


@pytest.mark.parametrize(
    ("asset", "change", "words"),
    [
        ("manifest", {"limit": 0}, "config of manifest: `limit`: must be greater than or equal to 1, not 0"),
        ("decoder_24khz", {"optimizer": {"betas": [0.9, 1.0]}}, "`optimizer.betas.1`: must be less than 1, not 1.0"),
        ("decoder_24khz", {"heads": {"native": {"n_ffts": [0]}}}, "`heads.native.n_ffts.0`: must be greater"),
        ("decoder_24khz", {"codec": {"vq_strides": [3, 2]}}, "every one of vq_strides (3, 2) must divide the first"),
    ],
    ids=str,
)
def test_the_refusal_says_what_is_wrong_where(configured, asset, change, words):
    with pytest.raises(PipelineError) as refused:
        launch(configured[asset][0], asset, change)
    assert words in str(refused.value)


def test_what_is_refused_leaves_no_run(project):
    with pytest.raises(PipelineError, match="config of manifest: `limit`"):
        project.run("prepare_corpus", config={"manifest": {"limit": 0}})
    with project.instance() as instance:
        assert instance.get_runs() == []


def test_a_right_value_reaches_the_step(project):
    project.run("prepare_corpus", config={"manifest": {"limit": 3}})
    assert project.newest("manifest", "alpha").metadata["utterances"].value == 3


def test_the_launchpad_offers_no_other_settings_file_than_the_one_the_graph_is_of(project):
    job = build_defs(project.settings_file).resolve_job_def("prepare_corpus")
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(job, {"resources": {"pipeline": {"config": {"settings_file": "other.yaml"}}}})
