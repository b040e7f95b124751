"""Every manifest of docs/examples/kubernetes is one that Kubernetes takes, and one that loses nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import Object, read, rendered

EXAMPLES = Path(__file__).parents[2] / "docs/examples/kubernetes"
FOLDERS = [EXAMPLES / "base", EXAMPLES / "jobset", *sorted((EXAMPLES / "overlays").iterdir())]
VERSIONS = ["1.29.0", "1.31.0", "1.33.0", "1.34.0"]
TRAINER_S = 30
SPOT_S = 15  # what Google's Spot nodes leave to pods
_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def objects(request: pytest.FixtureRequest) -> list[Object]:
    return rendered(request.param)


@pytest.fixture
def validator() -> str:
    """What knows the schemas of Kubernetes."""
    program = Path(sys.executable).with_name("kubernetes-validate")
    if not program.exists():
        pytest.skip("kubernetes-validate is not installed; `make test-manifests` installs it")
    return str(program)


@pytest.fixture
def pod(objects: list[Object]) -> Object:
    found: Object = job_of(objects)["spec"]["template"]["spec"]
    return found


def job_of(objects: list[Object]) -> Object:
    """The job among them, or the one that a set of jobs makes."""
    (job,) = (as_job(one) for one in objects if one["kind"] in {"Job", "JobSet"})
    return job


def as_job(found: Object) -> Object:
    if found["kind"] != "JobSet":
        return found
    (jobs,) = found["spec"]["replicatedJobs"]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": jobs["name"]}, **jobs["template"]}


def named(containers: list[Object], name: str) -> Object:
    (found,) = (one for one in containers if one["name"] == name)
    return found


@pytest.mark.parametrize("version", VERSIONS[-1:] if os.environ.get("CKPTSYNC_TEST_SHORT") else VERSIONS)
def test_kubernetes_takes_them(objects: list[Object], version: str, validator: str, tmp_path: Path) -> None:
    paths = []
    for number, one in enumerate(objects):
        paths.append(tmp_path / f"{number}.yaml")
        paths[-1].write_text(yaml.safe_dump(as_job(one)))
    done = subprocess.run(
        [validator, "--strict", "-k", version, *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_wrong_is_refused(validator: str, tmp_path: Path) -> None:
    (job,) = read(EXAMPLES / "base" / "job.yaml")
    job["spec"]["template"]["spec"]["terminationGracePeriod"] = 120
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = subprocess.run([validator, "--strict", str(tmp_path / "job.yaml")], capture_output=True, check=False)
    assert done.returncode != 0


def test_a_renderer_passes_nothing_over(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: x-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        rendered(tmp_path)


@pytest.mark.req(37)
def test_the_sidecar_is_one_and_has_time_to_drain(pod: Object) -> None:
    sync = named(pod["initContainers"], "sync")
    assert sync["restartPolicy"] == "Always"
    assert [one["name"] for one in pod["initContainers"]] == ["restore", "sync"]
    assert sync["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert sync["livenessProbe"]["httpGet"]["path"] == "/healthz"
    drain_s = int(option(sync, "--drain-timeout").removesuffix("s"))
    grace_s = pod["terminationGracePeriodSeconds"]
    assert grace_s >= TRAINER_S + drain_s
    (told,) = re.findall(r"echo (\d+) > (/signals/notice)", " ".join(sync["lifecycle"]["preStop"]["exec"]["command"]))
    assert int(told[0]) < grace_s
    assert option(sync, "--notice-file") == told[1]


@pytest.mark.req(37)
def test_a_spot_node_is_not_believed_to_wait() -> None:
    (job,) = (one for one in rendered(EXAMPLES / "overlays" / "gcs-workload-identity") if one["kind"] == "Job")
    sync = named(job["spec"]["template"]["spec"]["initContainers"], "sync")
    (told,) = re.findall(r"echo (\d+) >", " ".join(sync["lifecycle"]["preStop"]["exec"]["command"]))
    assert 0 < int(told) < SPOT_S


@pytest.mark.req(37)
def test_where_the_trainer_is_asked_is_where_it_looks(pod: Object) -> None:
    sync, trainer = named(pod["initContainers"], "sync"), named(pod["containers"], "trainer")
    environ = {one["name"]: one.get("value") for one in trainer["env"]}
    assert option(sync, "--ask") == f"file:{environ['CKPTSYNC_REQUEST_FILE']}"
    assert environ["CKPTSYNC_DIR"] == sync["args"][1]
    mounts = {one["mountPath"] for one in trainer["volumeMounts"]} & {one["mountPath"] for one in sync["volumeMounts"]}
    assert mounts == {"/data", "/signals"}


def option(container: Object, name: str) -> str:
    (found,) = (one.partition("=")[2] for one in container["args"] if one.startswith(f"{name}="))
    return str(found)


@pytest.mark.req(23)
def test_disks_have_limits(pod: Object) -> None:
    for container in [*pod["initContainers"], *pod["containers"]]:
        resources = container["resources"]
        assert size(resources["requests"]["ephemeral-storage"]) <= size(resources["limits"]["ephemeral-storage"])
        assert "memory" in resources["limits"]
    assert all(size(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"])


@pytest.mark.req(23)
@pytest.mark.parametrize("kind", ["requests", "limits"])
def test_full_volumes_do_not_evict_the_pod(pod: Object, kind: str) -> None:
    lasting = [*(one for one in pod["initContainers"] if one.get("restartPolicy") == "Always"), *pod["containers"]]
    # The kubelet holds everything the pod has on disk against the sum of what its containers may have.
    room = sum(size(one["resources"][kind]["ephemeral-storage"]) for one in lasting)
    assert room >= sum(size(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"])


def size(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]


def test_nobody_has_rights_that_are_not_needed(pod: Object, objects: list[Object]) -> None:
    context = pod["securityContext"]
    assert (context["runAsNonRoot"], context["runAsUser"], context["seccompProfile"]["type"]) == (
        True,
        10001,
        "RuntimeDefault",
    )
    for container in [*pod["initContainers"], *pod["containers"]]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
    (account,) = (one for one in objects if one["kind"] == "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert not [one for one in objects if one["kind"] == "Secret"]


def test_a_preempted_node_is_no_failure(objects: list[Object]) -> None:
    sets = [one["spec"]["failurePolicy"] for one in objects if one["kind"] == "JobSet"]
    job = job_of(objects)
    first = job["spec"]["podFailurePolicy"]["rules"][0]
    assert first["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert first["action"] == ("FailJob" if sets else "Ignore")
    for policy in sets:
        (rule,) = policy["rules"]
        assert (rule["action"], rule["onJobFailureReasons"]) == (
            "RestartJobSetAndIgnoreMaxRestarts",
            ["PodFailurePolicy"],
        )
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_pods_of_a_set_are_those_of_the_job() -> None:
    alone, together = (job_of(rendered(EXAMPLES / name))["spec"]["template"] for name in ("base", "jobset"))
    trainer = named(together["spec"]["containers"], "trainer")
    assert trainer["env"].pop(0) == {"name": "MASTER_ADDR", "value": "train-workers-0-0.train"}
    assert together == alone


def test_the_jobset_controller_takes_the_set() -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="`make test-manifests` installs it")
    (found,) = (one for one in rendered(EXAMPLES / "jobset") if one["kind"] == "JobSet")
    for jobs in found["spec"]["replicatedJobs"]:
        jobs["template"] = {}  # Kubernetes' schemas are asked about that above
    assert models.JobsetV1alpha2JobSet.from_dict(found).to_dict() == found, "there is what the model does not know"


def test_each_index_has_a_run_of_its_own() -> None:
    (job,) = (one for one in rendered(EXAMPLES / "overlays" / "indexed-job") if one["kind"] == "Job")
    for container in job["spec"]["template"]["spec"]["initContainers"]:
        names: list[Any] = [one["name"] for one in container["env"]]
        assert names.index("INDEX") < names.index("CKPTSYNC_RUN")
        assert container["env"][names.index("CKPTSYNC_RUN")]["value"].endswith("/$(INDEX)")


def test_the_options_are_those_of_the_sidecar() -> None:
    from ckptsync.cli.agent import agent  # noqa: PLC0415

    known = {name for param in agent.params for name in param.opts}
    (job,) = read(EXAMPLES / "base" / "job.yaml")
    sync = named(job["spec"]["template"]["spec"]["initContainers"], "sync")
    given = {one.partition("=")[0] for one in sync["args"] if one.startswith("--")}
    assert given <= known
