"""docs/scaling.md: its commands are ones that there are, and its figures those of the benchmarks."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml
from torch.distributed.run import get_args_parser

from snac_pipeline.cli import _parser
from snac_pipeline.settings import CachingSettings

REPOSITORY = Path(__file__).parents[2]
SCALING = (REPOSITORY / "docs" / "scaling.md").read_text()
TRAINING = (REPOSITORY / "docs" / "training.md").read_text()
HELP = next(a for a in _parser()._actions if a.choices and "train" in a.choices).choices["train"].format_help()


def commands(text: str) -> list[list[str]]:
    """Words of every command in the `sh` blocks of a document."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in blocks.splitlines() if line.strip()]


@pytest.mark.parametrize("text", [SCALING, TRAINING, HELP], ids=["scaling.md", "training.md", "train --help"])
def test_torchrun_is_shown_as_it_works_on_several_machines(text):
    """Without `--rdzv-backend c10d` every machine takes itself for the first."""
    [line] = re.findall(r"torchrun --nnodes.*?(?=\n *\n|\n```|\Z)", text.replace("\\\n", " "), re.DOTALL)
    options = get_args_parser().parse_args(shlex.split(line)[1:])
    assert (options.nnodes, options.nproc_per_node, options.rdzv_backend) == ("2", "8", "c10d")
    assert options.module and options.training_script == "snac_pipeline.cli"
    assert _parser().parse_args(options.training_script_args).what == "decoder_24khz"


def test_every_file_that_a_command_names_is_there():
    named = {word for command in commands(SCALING) for word in command if re.match(r"(deploy|resources)/", word)}
    assert {"deploy/postgres.yaml", "deploy/slurm.sbatch", "deploy/docker-compose.launcher.yaml"} <= named
    made = {"deploy/.env"}
    assert [word for word in named - made if not (REPOSITORY / word).exists()] == []


def test_the_variables_of_postgresql_are_those_that_the_file_reads():
    shown = set(re.findall(r"DAGSTER_POSTGRES_\w+", SCALING))
    assert shown == set(re.findall(r"DAGSTER_POSTGRES_\w+", (REPOSITORY / "deploy" / "postgres.yaml").read_text()))


def test_jobs_that_are_shown_are_jobs():
    from snac_pipeline.definitions import build_defs

    shown = set(re.findall(r"-j (\w+)", SCALING))
    names = {job.name for job in build_defs(REPOSITORY / "pipeline.yaml").resolve_all_job_defs()}
    assert {"pipeline", "refresh_codes"} == shown <= names


def test_the_settings_for_ray_are_settings():
    [block] = re.findall(r"```yaml\n(.*?)```", SCALING, re.DOTALL)
    assert CachingSettings(**yaml.safe_load(block)["caching"]).engine == "ray"


def test_the_simulated_hours_are_those_of_the_benchmark(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    scaling = importlib.import_module("scaling")
    seconds = scaling.lengths(3_400_000)
    assert f"| {seconds.sum() / 3600:,.0f} hours of speech |" in SCALING
    found = [scaling.simulate(seconds, gpus) for gpus in (1, 4, 32)]
    rows = ["| " + " | ".join([name, *(scaling.span(one[name]) for one in found)]) + " |" for name in found[0]]
    assert [row for row in rows if row not in SCALING] == []
    for figure in ("3,560 to 9,600", "810 to 2,000", "4.95 s", "16 cores", "200 GB/s", "25 GB/s", "15 ms", "0.2 s"):
        assert figure in " ".join(SCALING.split()), "every assumption is told"


def test_what_the_simulation_takes_for_measured_is_in_the_document_of_performance():
    performance = (REPOSITORY / "docs" / "performance.md").read_text()
    for figure in ("| 200 | 906 | 737 |", "| the first split | 11.1 |", "is 54 ms of one core", "| 1.00 | 5.5 s |"):
        assert figure in performance
    assert "| | 90 million | 6.00 | 15.0 |" in performance


def test_what_orchestration_costs_is_said_the_same_twice():
    performance = (REPOSITORY / "docs" / "performance.md").read_text()
    rows = [line for line in SCALING.splitlines() if line.startswith(("| SQLite,", "| PostgreSQL,"))]
    assert len(rows) == 4 and [row for row in rows if row not in performance] == []
