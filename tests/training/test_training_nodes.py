"""Training over two machines as torchrun starts it. Each machine is a process with a network of its own, where this may
be made (root, `ip`), else one of two on the loopback."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_training import PHASE10, recipe_of, start_together, steps_saved, wait_for
from ports import free_port

from snac_pipeline.settings import load_settings
from snac_pipeline.steps.training import train

pytestmark = pytest.mark.slow

EPOCHS = 12
CONTENT = {
    **PHASE10,
    "stages": [{**PHASE10["stages"][0], "epochs": EPOCHS}],
    "curriculum": [{"epochs": EPOCHS, "seconds": 0.25}],
    "validation": {**PHASE10["validation"], "every_epochs": EPOCHS},
    "noise": "seeded",
    "checkpoints": {"every_steps": 3, "keep": 99},
}
TORCHRUN = Path(sys.executable).with_name("torchrun")
GONE = "another process of this training is gone"


@dataclass(frozen=True)
class Machine:
    """Where one of the two is: how commands are run there, its address and the name of its network interface."""

    prefix: tuple[str, ...]
    address: str
    interface: str


@pytest.fixture(scope="module")
def machines() -> Iterator[list[Machine]]:
    with contextlib.ExitStack() as made:
        try:
            yield made.enter_context(networks(f"snac{os.getpid()}"))
        except (PermissionError, FileNotFoundError):
            yield [Machine((), "127.0.0.1", "lo")] * 2


@contextlib.contextmanager
def networks(name: str) -> Iterator[list[Machine]]:
    """Two network namespaces and a cable between them."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        raise PermissionError("only root makes networks")

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode != 0:
            raise PermissionError(done.stderr)

    names, addresses = (f"{name}a", f"{name}b"), ("10.77.0.1", "10.77.0.2")
    made = []
    try:
        for one in names:
            ip("netns", "add", one)
            made.append(one)
        ip("link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1])
        for one, address in zip(names, addresses, strict=True):
            ip("-n", one, "address", "add", f"{address}/24", "dev", one)
            ip("-n", one, "link", "set", one, "up")
            ip("-n", one, "link", "set", "lo", "up")
        yield [
            Machine(("ip", "netns", "exec", one), address, one) for one, address in zip(names, addresses, strict=True)
        ]
    finally:
        for one in made:
            subprocess.run(["ip", "netns", "delete", one], check=True)


@contextlib.contextmanager
def started(home, machines: list[Machine]) -> Iterator[list[subprocess.Popen]]:
    """The command of docs/training.md on each machine, which have no names that torchrun would know the first by.

    Nothing is left of it however a test ends: torchrun's processes die with it.
    """
    port = free_port()
    both = [
        subprocess.Popen(
            [*machine.prefix, TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
             "--rdzv-endpoint", f"{machines[0].address}:{port}", "--rdzv-conf", f"is_host={number == 0}",
             "--local-addr", machine.address, "-m", "snac_pipeline.cli", "train", "decoder_24khz",
             "--settings", home.folder / "pipeline.yaml", "--json"],
            env={**os.environ, "GLOO_SOCKET_IFNAME": machine.interface, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, machine in enumerate(machines)
    ]  # fmt: skip
    try:
        yield both
    finally:
        for process in both:
            process.kill()


def ended(process: subprocess.Popen) -> tuple[int, list[dict], str]:
    """Exit status, the events it printed, and what it said beside them."""
    out, err = process.communicate()
    return process.returncode, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


@pytest.fixture
def home(shared, tmp_path):
    copy = shared.copy(tmp_path)
    (copy.folder / "recipe.yaml").write_text(json.dumps(CONTENT))
    return copy


@pytest.fixture(scope="module")
def one_machine(shared, tmp_path_factory):
    """The digest of the weights that two processes of one machine give."""
    home = shared.copy(tmp_path_factory.mktemp("one"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        children = start_together(home, CONTENT)
        for child in children:
            child.join()
    assert [child.exitcode for child in children] == [0, 0]
    return home.plan(recipe_of(CONTENT)).result()["weights_digest"]


def test_two_machines_give_the_weights_of_two_processes_of_one_and_dagster_finds_them(home, machines, one_machine):
    with started(home, machines) as both:
        (first, events, said), (second, silent, _) = map(ended, both)
    assert (first, second) == (0, 0), said
    assert events[-1]["event"] == "result" and silent == [], "only the first process of all reports"
    assert events[-1]["weights_digest"] == one_machine
    # What the decoder's asset does when it is materialized afterwards, on any machine that sees the same home.
    found = train(load_settings(home.folder / "pipeline.yaml"), "decoder_24khz", lambda event: None)
    assert found["reused"] and found["weights_digest"] == one_machine


@pytest.mark.parametrize("lost", [0, 1], ids=["the first", "the second"])
def test_a_machine_that_is_lost_ends_the_other_in_seconds_and_training_goes_on(home, machines, one_machine, lost):
    run = home.plan(recipe_of(CONTENT)).folder
    with started(home, machines) as both:
        wait_for(lambda: len(steps_saved(run)) >= 2 or None not in [process.poll() for process in both])
        os.kill(both[lost].pid, signal.SIGKILL)  # torchrun; its process dies with it
        died = time.monotonic()
        status, _, said = ended(both[1 - lost])
    assert status == 1 and time.monotonic() - died < 60  # 15 s at a load of twenty, and not the two hours of PATIENCE
    [sentence] = {line for line in said.splitlines() if GONE in line and line.startswith("error: ")}
    assert "run it again to go on from the last checkpoint" in sentence
    assert not (run / "result.json").exists()
    saved = steps_saved(run)[-1]

    with started(home, machines) as both:
        (first, events, said), (second, *_) = map(ended, both)
    assert (first, second) == (0, 0), said
    assert f"resuming at step {saved}" in (run / "log.txt").read_text()
    assert events[-1]["weights_digest"] == one_machine
