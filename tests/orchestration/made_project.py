"""A small project in a folder of its own: two corpora of made recordings, settings, a Dagster home.

Jobs run either as a user starts them (`dagster job execute`) or, three seconds faster, in this process; the steps'
own child processes are real in both.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import soundfile
import yaml
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from snac_pipeline.definitions import build_defs
from snac_pipeline.settings import SETTINGS_VARIABLE

REPOSITORY = Path(__file__).parents[2]
CONSOLE = REPOSITORY / "resources" / "console.yaml"
DAGSTER = Path(sys.executable).with_name("dagster")
CORPORA = {"alpha": 4, "beta": 3}  # speakers of each


@dataclass(frozen=True)
class Project:
    """A folder with pipeline.yaml, its corpora and a Dagster home."""

    folder: Path

    @property
    def settings_file(self) -> Path:
        return self.folder / "pipeline.yaml"

    def change_settings(self, **changes: object) -> None:
        settings = yaml.safe_load(self.settings_file.read_text())
        self.settings_file.write_text(yaml.safe_dump({**settings, **changes}))

    def dagster(self, *arguments: object) -> subprocess.CompletedProcess:
        """`dagster *arguments` as a user would run it."""
        environment = {
            **os.environ,
            "DAGSTER_HOME": str(self.folder / ".dagster"),
            SETTINGS_VARIABLE: str(self.settings_file),
        }
        command = [str(DAGSTER), *map(str, arguments)]
        return subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=600)

    def execute(self, job: str, *arguments: object) -> subprocess.CompletedProcess:
        """Run a job from the command line."""
        return self.dagster("job", "execute", "-m", "snac_pipeline.definitions", "-j", job, "-c", CONSOLE, *arguments)

    def run(self, job: str, *, must_succeed: bool = True, config: dict | None = None, **tags: str) -> str:
        """Run a job in this process, with what the Launchpad would add: config by asset, and run tags; its run id."""
        run_config = {"ops": {asset: {"config": values} for asset, values in (config or {}).items()}}
        with self.instance() as instance:
            return (
                build_defs(self.settings_file)
                .resolve_job_def(job)
                .execute_in_process(instance=instance, tags=tags, run_config=run_config, raise_on_error=must_succeed)
                .run_id
            )

    def log(self, run_id: str) -> str:
        """All that a run said, a line for each event, with the sentences of what failed."""
        with self.instance() as instance:
            lines = []
            for entry in instance.all_logs(run_id):
                lines.append(entry.user_message)
                event = entry.dagster_event
                if event and event.is_step_failure and event.step_failure_data.user_failure_data:
                    lines.append(event.step_failure_data.user_failure_data.description)
            return "\n".join(lines)

    def failure(self, run_id: str) -> str:
        """The first line of a run's failure, as Dagster shows it."""
        with self.instance() as instance:
            entries = instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
        return entries[0].dagster_event.step_failure_data.user_failure_data.description

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.folder / ".dagster"))

    def newest(self, asset: str, partition: str | None = None) -> dg.AssetMaterialization:
        """The last materialization of an asset, or of one of its partitions."""
        partitions = [partition] if partition else None
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=partitions)
        with self.instance() as instance:
            [record] = instance.fetch_materializations(wanted, limit=1).records
        return record.asset_materialization

    def version(self, asset: str, partition: str | None = None) -> str:
        return self.newest(asset, partition).tags["dagster/data_version"]

    def stale(self, assets: set[str]) -> set[str]:
        """Which of `assets` the UI shows as stale, as "asset" or "asset/partition"."""
        graph = build_defs(self.settings_file).resolve_asset_graph()
        found = set()
        with self.instance() as instance:
            resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            for name in assets:
                partitions = graph.get(dg.AssetKey(name)).partitions_def
                for partition in partitions.get_partition_keys() if partitions else [None]:
                    if resolver.get_status(dg.AssetKey(name), partition).value != "FRESH":
                        found.add("/".join(filter(None, (name, partition))))
        return found


def write_recording(file: Path, seed: int, seconds: float = 0.6, rate: int = 16_000) -> None:
    """Noise that swells and fades: usable audio, and another content for every seed."""
    noise = np.random.default_rng(seed).normal(size=int(seconds * rate))
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, 0.1 * noise * np.hanning(len(noise)), rate)


def make_project(folder: Path) -> Project:
    for start, (corpus, speakers) in enumerate(CORPORA.items()):
        for speaker in range(speakers):
            for number in range(2):
                file = folder / corpus / f"speaker{speaker}" / f"{number}.wav"
                write_recording(file, seed=1000 * start + 10 * speaker + number)
    settings = {
        "home": "work",
        "corpora": {corpus: {"path": corpus, "speaker": "{speaker}/*"} for corpus in CORPORA},
        "split": {"val": 0.3},
        "base_codec": {"source": "no-base-codec-needed"},
        "training": {"decoders": {
            "decoder_24khz": {"recipe": str(REPOSITORY / "recipes/phase10.yaml")},
            "decoder_48khz": {"recipe": str(REPOSITORY / "recipes/phase11.yaml"), "starts_from": "decoder_24khz"},
            "decoder_dual_head": {"recipe": str(REPOSITORY / "recipes/phase12.yaml")},
        }},
    }  # fmt: skip
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    (folder / ".dagster").mkdir()
    shutil.copy(REPOSITORY / "resources" / "dagster.yaml", folder / ".dagster")
    return Project(folder)
