"""deploy/slurm.sbatch without a cluster: a shell takes it, and what it starts are real trainings.

Slurm's commands are stood in for by scripts: `srun` starts its command for each of two nodes, here as two processes of
this machine, and `scancel` sends a signal to these.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "deploy" / "slurm.sbatch"

SRUN = """#!/usr/bin/env bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
"$@" & first=$!
"$@" & second=$!
echo "$first $second" > "$STAND_IN/steps"
status=0
wait "$first" || status=$?
wait "$second" || status=$?
exit "$status"
"""
SCANCEL = """#!/usr/bin/env bash
echo "scancel $*" >> "$STAND_IN/said"
read -r first second < "$STAND_IN/steps"
kill -TERM "$first" "$second"
"""
SCONTROL = """#!/usr/bin/env bash
case "$1" in
    show) printf '127.0.0.1\\n127.0.0.1\\n' ;;
    *) echo "scontrol $*" >> "$STAND_IN/said" ;;
esac
"""


def test_a_shell_takes_the_script():
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True).returncode == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not here")
def test_shellcheck_finds_nothing():
    done = subprocess.run(["shellcheck", SCRIPT, REPOSITORY / ".ci" / "run"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_without_a_decoder_it_says_what_to_give():
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 2 and "sbatch deploy/slurm.sbatch decoder_24khz" in done.stderr


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A folder with the commands that stand in for Slurm's; `said` in it is what was asked of them."""
    for name, content in (("srun", SRUN), ("scancel", SCANCEL), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    for name, value in {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "STAND_IN": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SNAC_TORCHRUN": str(Path(sys.executable).with_name("torchrun")),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.slow
def test_a_job_that_is_out_of_time_saves_goes_back_into_the_queue_and_then_goes_on(slurm, tmp_path):
    from made_training import CODEC, PHASE10, make_home, recipe_of, steps_saved, wait_for

    from snac_pipeline.codec import SNAC, CodecSpec

    home = make_home(tmp_path / "project", SNAC(CodecSpec.from_dict(CODEC)).eval())
    epochs = {"stages": [{**PHASE10["stages"][0], "epochs": 48}], "curriculum": [{"epochs": 48, "seconds": 0.25}]}
    content = {
        **PHASE10,
        **epochs,
        "checkpoints": {"every_steps": 2},
        "validation": {**PHASE10["validation"], "every_epochs": 48},
    }
    (home.folder / "recipe.yaml").write_text(json.dumps(content))
    run = home.plan(recipe_of(content)).folder
    command = ["bash", SCRIPT, "decoder_24khz", "--settings", home.folder / "pipeline.yaml", "--json"]

    with batch(command) as job:
        wait_for(lambda: steps_saved(run) or job.poll() is not None)
        job.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B:TERM says
        out, said = job.communicate()
    asked = (slurm / "said").read_text().splitlines()
    number = os.environ["SLURM_JOB_ID"]
    assert asked == [f"scancel --signal=TERM {number}", f"scontrol requeue {number}"], said
    assert job.returncode != 0 and not (run / "result.json").exists()
    assert "stopped at step" in out and "run it again to go on" in out
    saved = steps_saved(run)[-1]

    with batch(command) as job:
        out, said = job.communicate()
    assert job.returncode == 0, said
    assert json.loads(out.splitlines()[-1])["event"] == "result"
    assert f"resuming at step {saved}" in (run / "log.txt").read_text()
    assert (slurm / "said").read_text().splitlines() == asked


@contextlib.contextmanager
def batch(command: list) -> Iterator[subprocess.Popen]:
    """A job of which nothing is left, however the test ends; torchrun's processes die with it."""
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield job
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
