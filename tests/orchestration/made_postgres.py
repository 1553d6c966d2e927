"""A PostgreSQL server of one's own: Debian's binaries, a new folder, a free port of 127.0.0.1, gone when it is left.

PostgreSQL refuses to run as root; there its processes are those of the account `postgres`, or else of `nobody`.
"""

import contextlib
import functools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ports import free_port

from snac_pipeline.engine.child import die_with_parent

REPOSITORY = Path(__file__).parents[2]
DATABASE = "postgres"  # the one that initdb makes


def binaries() -> Path | None:
    """The folder of initdb and postgres; Debian keeps them off the PATH."""
    for folder in [*os.get_exec_path(), *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]:
        if all((Path(folder) / name).exists() for name in ("initdb", "postgres")):
            return Path(folder).resolve()
    return None


@contextlib.contextmanager
def postgres_server(options: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """A running server; the environment that deploy/postgres.yaml takes its place and credentials from.

    options: of the server, such as "fsync=off".
    """
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user, password = "dagster", secrets.token_hex(16)
    try:
        (folder / "password").write_text(password)
        account = _account(folder)
        _run("initdb", folder, f"--username={user}", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256",
             "--encoding=UTF8", "--locale=C", **account)  # fmt: skip
        port = free_port()
        settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", *options]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [binaries() / "postgres", "-D", folder / "data", *(word for one in settings for word in ("-c", one))],
                stdout=log,
                stderr=log,
                preexec_fn=functools.partial(die_with_parent, os.getpid()),
                **account,
            )
        try:
            _wait(server, folder / "log", port)
            yield {
                "DAGSTER_POSTGRES_HOST": "127.0.0.1",
                "DAGSTER_POSTGRES_PORT": str(port),
                "DAGSTER_POSTGRES_DB": DATABASE,
                "DAGSTER_POSTGRES_USER": user,
                "DAGSTER_POSTGRES_PASSWORD": password,
            }
        finally:
            server.send_signal(signal.SIGINT)  # "fast": ends connections, then itself
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_instance(home: Path) -> None:
    """Write a Dagster home as deploy/postgres.yaml says: below the settings that every instance has."""
    parts = [REPOSITORY / "resources" / "dagster.yaml", REPOSITORY / "deploy" / "postgres.yaml"]
    home.mkdir(exist_ok=True)
    (home / "dagster.yaml").write_text("\n".join(part.read_text() for part in parts))


def _account(folder: Path) -> dict[str, Any]:
    """Whose the server's processes are, in words of Popen; `folder` becomes theirs."""
    if os.getuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    for path in (folder, *folder.iterdir()):
        os.chown(path, entry.pw_uid, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": [], "cwd": folder}


def _run(binary: str, folder: Path, *arguments: str, **account: Any) -> None:
    done = subprocess.run(
        [binaries() / binary, "-D", folder / "data", *arguments], capture_output=True, text=True, **account
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _wait(server: subprocess.Popen, log: Path, port: int) -> None:
    deadline = time.monotonic() + 30
    while "ready to accept connections" not in log.read_text():
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
