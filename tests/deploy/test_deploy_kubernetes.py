"""deploy/helm-values.yaml and kubernetes.yaml, without a cluster: Kubernetes' and Dagster's own types take them."""

import re
from pathlib import Path

import pytest
import yaml
from dagster._config import Shape, process_config

k8s = pytest.importorskip("dagster_k8s")
from dagster_k8s.job import UserDefinedDagsterK8sConfig  # noqa: E402
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict  # noqa: E402
from kubernetes.client import models  # noqa: E402

REPOSITORY = Path(__file__).parents[2]
VALUES = yaml.safe_load((REPOSITORY / "deploy" / "helm-values.yaml").read_text())
CLAIMS = list(yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes.yaml").read_text()))
[CODE] = VALUES["dagster-user-deployments"]["deployments"]
LAUNCHER = VALUES["runLauncher"]["config"]["k8sRunLauncher"]

# What the chart of 1.13 has: its `values.schema.json`, as far as we use it.
CHART = {
    "": {"global", "generatePostgresqlPasswordSecret", "postgresql", "telemetry", "dagsterWebserver",
         "dagster-user-deployments", "runLauncher", "dagsterDaemon", "additionalInstanceConfig"},
    "global": {"postgresqlSecretName"},
    "postgresql": {"enabled", "postgresqlHost", "postgresqlDatabase", "postgresqlUsername", "service"},
    "dagsterWebserver": {"service"},
    "dagsterDaemon": {"runRetries", "runMonitoring"},
    "dagster-user-deployments": {"enabled", "deployments"},
    "runLauncher": {"type", "config"},
}  # fmt: skip
DEPLOYMENT = {"name", "image", "codeServerArgs", "port", "includeConfigInLaunchedRuns", "env", "envSecrets",
              "podSecurityContext", "volumes", "volumeMounts"}  # fmt: skip


def snake(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


def model(kind: type, value: dict):
    """`value` as one of Kubernetes' types; an unknown key is an error."""
    return k8s_model_from_dict(kind, k8s_snake_case_dict(kind, value))


def test_the_values_are_words_of_the_chart():
    for place, known in CHART.items():
        assert set(VALUES if not place else VALUES[place]) <= known, place
    assert set(CODE) <= DEPLOYMENT
    assert VALUES["runLauncher"]["type"] == "K8sRunLauncher"
    assert set(VALUES["runLauncher"]["config"]) == {"k8sRunLauncher"}


def test_dagsters_launcher_takes_its_config():
    """Under the names that the chart's template gives it."""
    config = {snake(name): value for name, value in LAUNCHER.items()}
    config["run_k8s_config"] = {snake(name): value for name, value in LAUNCHER["runK8sConfig"].items()}
    config |= {"dagster_home": "/opt/dagster/dagster_home", "instance_config_map": "x", "service_account_name": "x",
               "postgres_password_secret": VALUES["global"]["postgresqlSecretName"]}  # fmt: skip
    taken = process_config(Shape(k8s.K8sRunLauncher.config_type()), config)
    assert taken.success, taken.errors
    assert not process_config(Shape(k8s.K8sRunLauncher.config_type()), {**config, "resource": {}}).success
    run = UserDefinedDagsterK8sConfig.from_dict(config["run_k8s_config"])
    assert run.pod_spec_config["security_context"]["run_as_non_root"] is True
    assert run.container_config["volume_mounts"][0]["mount_path"] == "/dev/shm"


def test_every_run_has_a_gpu_and_the_code_location_has_none():
    resources = model(models.V1ResourceRequirements, LAUNCHER["resources"])
    assert int(resources.limits["nvidia.com/gpu"]) >= 1
    assert "resources" not in CODE, "the chart would give them to every run, in place of the launcher's"


def test_what_is_mounted_is_claimed_and_claims_are_kubernetes_own():
    claims = {claim["metadata"]["name"]: model(models.V1PersistentVolumeClaim, claim) for claim in CLAIMS}
    volumes = [model(models.V1Volume, volume) for volume in CODE["volumes"]]
    assert {volume.persistent_volume_claim.claim_name for volume in volumes} == set(claims)
    assert all(claim.spec.access_modes == ["ReadWriteMany"] for claim in claims.values())
    mounts = {mount.name: mount.mount_path for mount in (model(models.V1VolumeMount, m) for m in CODE["volumeMounts"])}
    assert mounts == {"project": "/project", "speech": "/speech"} == {v.name: mounts[v.name] for v in volumes}


def test_nobody_is_root_and_no_secret_is_in_the_values():
    for context in (CODE["podSecurityContext"], LAUNCHER["runK8sConfig"]["podSpecConfig"]["securityContext"]):
        assert model(models.V1PodSecurityContext, context).run_as_user == 1000
    assert (
        "password" not in {key.lower() for key in VALUES["postgresql"]}
        and not VALUES["generatePostgresqlPasswordSecret"]
    )
    assert [source["name"] for source in CODE["envSecrets"]] == ["snac-pipeline"]
    assert VALUES["dagsterWebserver"]["service"]["type"] == "ClusterIP"


def test_an_instance_there_behaves_as_one_here():
    own = yaml.safe_load((REPOSITORY / "resources" / "dagster.yaml").read_text())
    for section, value in VALUES["additionalInstanceConfig"].items():
        assert own[section] == value
    monitoring = VALUES["dagsterDaemon"]["runMonitoring"]
    assert monitoring["freeSlotsAfterRunEndSeconds"] == own["run_monitoring"]["free_slots_after_run_end_seconds"]
    assert VALUES["telemetry"] == own["telemetry"]
