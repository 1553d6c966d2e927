"""deploy/ for Docker, without an engine: what the files name exists, and Dagster takes what they say."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import click
import dagster as dg
import pytest
import yaml
from dagster._cli import create_dagster_cli
from dagster._core.instance.ref import InstanceRef
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import dagster_webserver
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
COMPOSE, LAUNCHER = (yaml.safe_load((DEPLOY / f"docker-compose{kind}.yaml").read_text()) for kind in ("", ".launcher"))
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
OURS = ("code", "webserver", "daemon")  # the services of our image
COMMANDS = {
    "dagster": create_dagster_cli(),
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": dagster_webserver,
}


def lines(instruction: str) -> list[str]:
    return re.findall(rf"^{instruction} +(.*)$", DOCKERFILE, re.MULTILINE)


def database_variables() -> set[str]:
    storage = yaml.safe_load((DEPLOY / "postgres.yaml").read_text())["storage"]["postgres"]["postgres_db"]
    return {value["env"] for value in storage.values()}


# ---- Compose ---------------------------------------------------------------------------------------------------------


def test_every_variable_of_compose_is_explained_and_no_other():
    text = "".join((DEPLOY / f"docker-compose{kind}.yaml").read_text() for kind in ("", ".launcher"))
    used = set(re.findall(r"\$\{(\w+)", text))
    example = (DEPLOY / "env.example").read_text()
    assert used == set(re.findall(r"^(\w+)=", example, re.MULTILINE)) != set()
    for name in used:  # each has a comment above itself or above the variable before it
        assert re.search(rf"^#.*\n(?:\w+=.*\n)*{name}=", example, re.MULTILINE), name


def test_no_file_has_a_password_and_the_one_to_fill_in_is_not_taken_by_git():
    for file in DEPLOY.iterdir():
        for name, value in re.findall(
            r"(\w*(?:PASSWORD|TOKEN|WEBHOOK|password))[\"']?[:=][ \t]*(\S*)", file.read_text()
        ):
            assert value in ("", "{env:") or value.startswith("${"), f"{file.name}: {name}"
    assert "/deploy/.env" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_ports_are_those_of_this_machine_alone():
    published = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert list(published) == ["webserver"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@pytest.mark.parametrize("service", OURS)
def test_the_command_of_a_container_is_one_that_there_is(service):
    """Parsed by the command itself: its name, its options and their values."""
    name, *arguments = COMPOSE["services"][service]["command"]
    command = COMMANDS[name]
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    local = [argument.replace("/opt/snac-pipeline", str(REPOSITORY)) for argument in arguments]
    assert command.make_context(name, local).params


def test_the_check_of_the_code_location_is_a_command_too():
    _, *words = COMPOSE["services"]["code"]["healthcheck"]["test"]
    command = COMMANDS[words[0]].commands[words[1]].commands[words[2]]
    assert command.make_context(words[2], words[3:]).params["port"] == 4000


def test_webserver_and_daemon_find_the_code_location_where_it_listens():
    [location] = yaml.safe_load((DEPLOY / "workspace.yaml").read_text())["load_from"]
    command = COMPOSE["services"]["code"]["command"]
    assert location["grpc_server"]["host"] in COMPOSE["services"]
    assert str(location["grpc_server"]["port"]) == command[command.index("--port") + 1]
    names = [location["grpc_server"]["location_name"]]
    assert names == [
        one["python_module"]["location_name"]
        for one in yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())["load_from"]
    ], "schedules and sensors that are on stay on when a project moves into containers"


@pytest.mark.parametrize("service", OURS)
def test_every_container_of_ours_reaches_the_database_and_the_shared_folders(service):
    one = COMPOSE["services"][service]
    assert database_variables() <= set(one["environment"])
    assert one["environment"]["DAGSTER_POSTGRES_HOST"] in COMPOSE["services"]
    mounts = dict(volume.split(":")[:2] for volume in one["volumes"])
    assert mounts == {"project": "/project", "speech": "/speech", "dagster": "/opt/dagster/storage"}
    assert set(mounts) <= set(COMPOSE["volumes"])
    assert one["user"] == "${SNAC_UID:-1000}:${SNAC_GID:-1000}"
    assert one["image"] == "snac-pipeline" and one["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}


def test_the_gpus_are_reserved_for_the_container_that_runs():
    reserved = {name for name, service in COMPOSE["services"].items() if "deploy" in service}
    assert reserved == {"code"}
    [device] = COMPOSE["services"]["code"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_what_is_laid_over_it_changes_services_that_there_are():
    assert set(LAUNCHER["services"]) == set(OURS)
    sockets = {name for name, service in LAUNCHER["services"].items() if "docker.sock" in str(service)}
    assert sockets == {"webserver", "daemon"}, "runs, and the code that they load, do not get the engine"
    assert all(service["build"] == {"args": {"LAUNCHER": "docker"}} for service in LAUNCHER["services"].values())


# ---- the image -------------------------------------------------------------------------------------------------------


def test_the_image_begins_with_a_python_that_the_project_takes_and_names_no_registry():
    [base] = lines("FROM")
    assert "/" not in base and (version := re.fullmatch(r"python:(\d\.\d+)-slim-bookworm", base))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert version[1] in SpecifierSet(project["requires-python"])


def test_what_is_copied_into_the_image_is_there_and_is_all_that_is_built():
    copied = [word for line in lines("COPY") for word in line.split()[:-1]]
    assert [word for word in copied if not (REPOSITORY / word).exists()] == []
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["uv"]["build-backend"]
    assert set(build["module-name"]) | {"recipes", "deploy"} <= set(copied)


def test_the_packages_of_the_image_are_those_of_the_lock():
    extras = set(re.findall(r"--extra (\w+)", DOCKERFILE))
    dev = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    assert {"postgres", "docker", "kubernetes", "ray"} <= extras <= Requirement(dev[0]).extras
    [install] = [line for line in lines("RUN") if "--requirements pyproject.toml" in line]
    assert "--constraints requirements.lock" in install and "--only-binary :all:" in install


def test_the_image_is_nobodys_root_and_has_every_place_that_is_mounted():
    assert lines("USER") == ["1000:1000"]
    made = set(re.search(r"mkdir --parents (.*?) &&", DOCKERFILE)[1].replace('"', "").split())
    home = re.search(r"DAGSTER_HOME=(\S+)", DOCKERFILE)[1]
    places = {place.replace("$DAGSTER_HOME", home) for place in made}
    mounted = {volume.split(":")[1] for service in OURS for volume in COMPOSE["services"][service]["volumes"]}
    assert mounted <= places
    [settings] = re.findall(r"SNAC_PIPELINE_SETTINGS=(\S+)", DOCKERFILE)
    assert Path(settings).parent.as_posix() in mounted


@pytest.fixture(params=["", "docker"], ids=["runs in the code location", "a container for each run"])
def instance(request, tmp_path, monkeypatch) -> InstanceRef:
    """What Dagster makes of the dagster.yaml that the image is built with."""
    command = re.search(r"cat .*?(?= +> )", DOCKERFILE)[0]  # of the Dockerfile, by a shell, in the project's folder
    content = subprocess.run(
        ["sh", "-c", command], env={"LAUNCHER": request.param, "PATH": os.environ["PATH"]}, cwd=REPOSITORY,
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (tmp_path / "dagster.yaml").write_text(content)
    for name in database_variables():
        monkeypatch.setenv(name, "5432")
    return InstanceRef.from_dir(str(tmp_path))


def test_dagster_takes_the_settings_of_the_image(instance):
    own = yaml.safe_load((REPOSITORY / "resources" / "dagster.yaml").read_text())
    assert instance.settings["concurrency"] == own["concurrency"]
    assert instance.settings["run_retries"] == own["run_retries"]
    assert instance.storage_data.class_name == "DagsterPostgresStorage"
    assert instance.run_launcher_data.class_name in ("DefaultRunLauncher", "DockerRunLauncher")


def test_dagster_and_docker_take_the_launchers_words(instance):
    launcher = instance.run_launcher  # refuses config that it does not know
    if instance.run_launcher_data.class_name == "DefaultRunLauncher":
        assert launcher.inst_data is None or launcher.inst_data.config_dict == {}
        return
    models = pytest.importorskip("docker.models.containers")
    names = {volume.get("name") for volume in COMPOSE["volumes"].values() if volume}
    config = launcher.inst_data.config_dict
    kwargs = config["container_kwargs"]
    assert {volume.split(":")[0] for volume in kwargs["volumes"]} == names
    assert config["network"] == COMPOSE["networks"]["default"]["name"]
    assert config["image"] == COMPOSE["services"]["code"]["image"]
    assert set(config["env_vars"]) >= database_variables()
    made = models._create_container_args({**kwargs, "image": config["image"], "version": "1.43"})
    [gpus] = made["host_config"]["DeviceRequests"]
    assert (gpus["Count"], gpus["Capabilities"]) == (-1, [["gpu"]])
    assert set(made["host_config"]["Binds"]) == set(kwargs["volumes"])


def test_an_instance_without_its_variables_says_which(tmp_path, monkeypatch):
    monkeypatch.delenv("DAGSTER_POSTGRES_HOST", raising=False)
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "postgres.yaml").read_text())
    with pytest.raises(dg.DagsterError, match="DAGSTER_POSTGRES_HOST"):
        InstanceRef.from_dir(str(tmp_path)).storage  # noqa: B018
