"""The life of a pod, from the very manifests of docs/examples/kubernetes."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from manifests.rendering import Object, rendered
from support.waiting import wait_until

from ckptsync.run import open_run
from ckptsync.testing.servers import Server, create_bucket, ministack

from .engine import IMAGE, ROOT, Engine
from .pod import Pod, PodError

EXAMPLES = ROOT / "docs/examples/kubernetes"
STEPS = 40
TRAINER = """
import hashlib, os, pathlib, signal, sys, time
folder, asked = pathlib.Path(os.environ['CKPTSYNC_DIR']), []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
def newest():
    return max((int(path.name[11:]) for path in folder.glob('checkpoint-*') if (path / '.ckptsync-ready').exists()), default=0)
def write(step, state):
    new = folder / f'checkpoint-{step}'
    new.mkdir(exist_ok=True)
    (new / 'state').write_bytes(state)
    (new / '.ckptsync-ready').touch()
start = newest()
state = (folder / f'checkpoint-{start}' / 'state').read_bytes() if start else b'seed'
print('start', start, flush=True)
for step in range(start + 1, STEPS + 1):
    state = hashlib.sha256(state).digest()
    time.sleep(0.1)
    if step % 5 == 0 or asked:
        write(step, state)
    if asked:
        sys.exit(143)
print('result', state.hex(), flush=True)
""".replace("STEPS", str(STEPS))
NodeOf = Callable[..., Pod]


@pytest.fixture
def node(engine: Engine, tmp_path: Path) -> Iterator[NodeOf]:
    """Make nodes with empty disks, on which the pod of the base runs; its bucket is a folder that all of them see."""
    objects = rendered(EXAMPLES / "base")
    (job,) = (one for one in objects if one["kind"] == "Job")
    (settings,) = (one for one in objects if one["kind"] == "ConfigMap")
    spec: Object = copy.deepcopy(job["spec"]["template"]["spec"])
    spec["containers"][0]["command"] = ["python", "-u", "-c", TRAINER]
    for folder in (*list(tmp_path.parents)[:2], tmp_path):
        folder.chmod(0o755)
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    bucket.chmod(0o777)
    pods: list[Pod] = []

    def make(name: str, run: str = str(bucket / "run"), environ: Mapping[str, str] | None = None) -> Pod:
        data = {settings["metadata"]["name"]: {**settings["data"], "CKPTSYNC_RUN": run}}
        pods.append(Pod(engine, spec, tmp_path / name, data, environ or {}, IMAGE, shared=bucket))
        return pods[-1]

    yield make
    for pod in pods:
        pod.remove()
    shutil.rmtree(bucket, ignore_errors=True)


@pytest.fixture
def bucket_of_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of S3's protocol that pods and this process reach."""
    with ministack() as server:
        create_bucket(server, "pods")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


def newest_step(pod: Pod) -> int:
    (settings,) = pod.settings.values()
    with open_run(settings["CKPTSYNC_RUN"]) as run:
        newest = run.catalog.latest()
    return newest.id.step if newest is not None else 0


def expected() -> str:
    import hashlib  # noqa: PLC0415

    state = b"seed"
    for _ in range(STEPS):
        state = hashlib.sha256(state).digest()
    return state.hex()


@pytest.mark.req(37)
def test_a_pod_that_comes_to_its_end_leaves_everything_durable(node: NodeOf) -> None:
    pod = node("first")
    pod.begin()
    assert pod.wait("trainer") == 0
    begun_s = time.monotonic()
    codes = pod.end()
    assert time.monotonic() - begun_s < 15, "a pod that is done holds its node"
    assert codes == {"restore": 0, "sync": 0, "trainer": 0}, pod.logs("sync")
    assert newest_step(pod) == STEPS
    assert f"result {expected()}" in pod.logs("trainer")


@pytest.mark.req(5, 37)
def test_a_preempted_pod_resumes_on_an_empty_disk(node: NodeOf) -> None:
    first = node("first")
    first.begin()
    wait_until(lambda: newest_step(first) >= 5)
    codes = first.end()
    assert codes == {"restore": 0, "sync": 0, "trainer": 143}, first.logs("sync")
    written = max(int(path.name[11:]) for path in (first.disk / "data" / "checkpoints").glob("checkpoint-*"))
    assert newest_step(first) == written
    second = node("second")
    second.begin()
    assert second.wait("trainer") == 0
    assert second.end()["sync"] == 0
    printed = second.logs("trainer")
    assert f"start {written}" in printed
    assert f"result {expected()}" in printed


@pytest.mark.req(5, 37)
def test_a_preempted_pod_resumes_from_s3(node: NodeOf, bucket_of_s3: Server) -> None:
    url = "s3://pods/run"
    first = node("first", url, bucket_of_s3.environ)
    first.begin()
    wait_until(lambda: newest_step(first) >= 5)
    codes = first.end()
    assert codes == {"restore": 0, "sync": 0, "trainer": 143}, first.logs("sync")
    committed = newest_step(first)
    second = node("second", url, bucket_of_s3.environ)
    second.begin()
    assert second.wait("trainer") == 0
    assert second.end()["sync"] == 0
    assert newest_step(second) == STEPS
    assert f"start {committed}" in second.logs("trainer")
    assert f"result {expected()}" in second.logs("trainer")


@pytest.mark.req(4)
def test_a_node_that_is_gone_costs_what_was_not_committed(node: NodeOf) -> None:
    first = node("first")
    first.begin()
    wait_until(lambda: newest_step(first) >= 10)
    first.die()
    committed = newest_step(first)
    second = node("second")
    second.begin()
    assert second.wait("trainer") == 0
    assert second.end()["sync"] == 0
    assert f"start {committed}" in second.logs("trainer")
    assert f"result {expected()}" in second.logs("trainer")


def test_a_wrong_run_fails_the_job_with_its_code(node: NodeOf) -> None:
    pod = node("first", "memory://nowhere")
    with pytest.raises(PodError, match="restore ended with 2"):
        pod.begin()
