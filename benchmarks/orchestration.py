"""What Dagster costs beside the work: seconds and bytes of storage per run, per asset, per corpus.

python benchmarks/orchestration.py [--rounds 3] [--assets 1 20] [--corpora 1 40] [--json FILE]

Assets that do nothing, in one process, with the project's own instance settings: a run of few and of many unpartitioned
assets, and of one asset with few and with many partitions, each of which gets its own event and data version as corpora
do. The differences are what one more asset and one more corpus cost; what is left is the run. Storage is SQLite files
and, where its server is installed, PostgreSQL (deploy/postgres.yaml). Then the same job as users start it, `dagster job
execute`, and the start of a step's child process, which every step that has work to do adds. CPU seconds
are of this process and its children, without the database server's. Medians of the rounds; bytes are means, since
both storages grow by pages.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dagster as dg

warnings.filterwarnings("ignore", category=dg.BetaWarning)

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / place) for place in (".", "tests", "tests/orchestration")]

from made_postgres import binaries, postgres_server, write_instance  # noqa: E402

from assets.materialized import Outcome, materialize_partitions  # noqa: E402

MODULE = """
import dagster as dg

@dg.asset
def nothing() -> None:
    pass

defs = dg.Definitions(assets=[nothing], jobs=[dg.define_asset_job("idle", "nothing")],
                      executor=dg.in_process_executor)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--assets", type=int, nargs=2, default=(1, 20), metavar="N")
    parser.add_argument("--corpora", type=int, nargs=2, default=(1, 40), metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    found = {}
    for name, storage in STORAGES.items():
        if name == "PostgreSQL" and binaries() is None:
            print("PostgreSQL: no server here (Debian: apt install postgresql)", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder, storage(Path(folder)) as size:
            found[name] = measure(Path(folder), size, options)
    print(f"{'':12}{'per':>14}{'seconds':>10}{'CPU s':>10}{'kB':>8}   {options.rounds} rounds, load {load():.1f}")
    for name, figures in found.items():
        for what, one in figures.items():
            kilobytes = f"{one['bytes'] / 1000:>8.0f}" if "bytes" in one else ""
            print(f"{name:12}{what:>14}{one['seconds']:>10.3f}{one['cpu']:>10.3f}{kilobytes}")
    child = timed([sys.executable, "-m", "snac_pipeline.cli", "status", "--help"], options.rounds, {})
    print(f"{'any':12}{'child process':>14}{child['seconds']:>10.3f}{child['cpu']:>10.3f}")
    if options.json:
        figures = {"load": load(), "cores": os.cpu_count(), "storage": found, "child": child}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def load() -> float:
    """Processes that wanted a core in the last minute, on average."""
    return os.getloadavg()[0]


@contextlib.contextmanager
def sqlite(home: Path) -> Iterator[Callable[[], int]]:
    """A Dagster home as `make` sets it up; yields what its files take, in bytes."""
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", home)
    yield lambda: sum(file.stat().st_size for file in home.rglob("*") if file.is_file())


@contextlib.contextmanager
def postgres(home: Path) -> Iterator[Callable[[], int]]:
    """The same with a server of its own; yields what its database takes."""
    import sqlalchemy

    with postgres_server() as environment:
        os.environ.update(environment)
        write_instance(home)
        address = "postgresql://{USER}:{PASSWORD}@{HOST}:{PORT}/{DB}".format(
            **{name.removeprefix("DAGSTER_POSTGRES_"): value for name, value in environment.items()}
        )
        engine = sqlalchemy.create_engine(address)

        def size() -> int:
            with engine.connect() as connection:
                return connection.execute(sqlalchemy.text("select pg_database_size(current_database())")).scalar_one()

        yield size
        engine.dispose()


STORAGES = {"SQLite": sqlite, "PostgreSQL": postgres}


def measure(home: Path, size: Callable[[], int], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds, CPU seconds and bytes of one run, one more asset, one more corpus; seconds of the command line."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        cases = {("asset", count): chain(count) for count in options.assets}
        cases |= {("corpus", count): corpora(count) for count in options.corpora}
        for defs in cases.values():
            run(defs, instance)  # tables, indices, imports
        costs = {case: cost(defs, instance, size, options.rounds) for case, defs in cases.items()}
    found = {}
    for what, (few, many) in (("asset", options.assets), ("corpus", options.corpora)):
        less, more = costs[what, few], costs[what, many]
        found[what] = {unit: (more[unit] - less[unit]) / (many - few) for unit in less}
    few = options.assets[0]
    run_alone = {unit: whole - few * found["asset"][unit] for unit, whole in costs["asset", few].items()}
    return {"run": run_alone, **found, "command line": command_line(home, options.rounds)}


def cost(defs: dg.Definitions, instance: dg.DagsterInstance, size: Callable[[], int], rounds: int) -> dict[str, float]:
    """What a run of the definitions takes."""
    before, taken = size(), []
    for _ in range(rounds):
        began, busy = time.monotonic(), time.process_time()
        run(defs, instance)
        taken.append((time.monotonic() - began, time.process_time() - busy))
    seconds, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
    return {"seconds": seconds, "cpu": cpu, "bytes": (size() - before) / rounds}


def chain(count: int) -> dg.Definitions:
    """Assets that do nothing, each after the one before."""

    def asset(number: int) -> dg.AssetsDefinition:
        @dg.asset(name=f"asset_{number}", deps=[f"asset_{number - 1}"] if number else [])
        def nothing() -> dg.MaterializeResult:
            return dg.MaterializeResult(data_version=dg.DataVersion("same"), metadata={"seconds": 0.0})

        return nothing

    return dg.Definitions([asset(number) for number in range(count)], jobs=[dg.define_asset_job("idle")])


def corpora(count: int) -> dg.Definitions:
    """One asset whose partitions are materialized as those of manifest and code_cache are."""
    names = [f"corpus_{number:03d}" for number in range(count)]
    ends = {"dagster/asset_partition_range_start": names[0], "dagster/asset_partition_range_end": names[-1]}

    @dg.asset(
        partitions_def=dg.StaticPartitionsDefinition(names),
        backfill_policy=dg.BackfillPolicy.single_run(),
        name="parts",
    )
    def nothing(context: dg.AssetExecutionContext):
        outcomes = {name: Outcome(name, {"utterances": dg.MetadataValue.int(0)}) for name in context.partition_keys}
        yield from materialize_partitions(context, "parts", outcomes)

    return dg.Definitions([nothing], jobs=[dg.define_asset_job("idle", run_tags=ends)])


def run(defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
    silent = {"loggers": {"console": {"config": {"log_level": "ERROR"}}}}
    assert defs.resolve_job_def("idle").execute_in_process(instance=instance, run_config=silent).success


def command_line(home: Path, rounds: int) -> dict[str, float]:
    """`dagster job execute` of one asset that does nothing."""
    (home / "idle.py").write_text(MODULE)
    command = [Path(sys.executable).with_name("dagster"), "job", "execute", "-f", home / "idle.py", "-j", "idle"]
    return timed(command, rounds, {"DAGSTER_HOME": str(home)})


def timed(command: Sequence[str | Path], rounds: int, environment: dict[str, str]) -> dict[str, float]:
    taken = []
    for _ in range(rounds):
        began, busy = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - busy.ru_utime - busy.ru_stime
        taken.append((time.monotonic() - began, cpu))
    seconds, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
    return {"seconds": seconds, "cpu": cpu}


if __name__ == "__main__":
    main()
