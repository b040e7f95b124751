"""Two processes that train together: on one machine with one folder, and on two machines with a disk each."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ckptsync.run import open_run
from ckptsync.verbs.verify import verify

JOB = Path(__file__).with_name("job.py")
KINDS = ("trainer", "accelerate")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def trained(
    kind: str, run: Path, folder: Path, steps: int, *, each_node: bool, world: int = 2
) -> list[tuple[int, str]]:
    """Start the job; the step that each process began at, and a digest of its weights."""
    port, processes = str(free_port()), []
    for rank in range(world):
        local, count = (0, 1) if each_node else (rank, world)
        environ = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(count),
            "CKPTSYNC_STATE_DIR": str(folder.parent / "state"),
        }
        own = folder / str(rank) if each_node else folder
        command = [sys.executable, str(JOB), kind, str(run), str(own), str(steps), *["--each-node"] * each_node]
        processes.append(
            subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    outputs = [_output(process) for process in processes]
    assert [process.returncode for process in processes] == [0] * world, outputs
    results = [next(line for line in out.splitlines() if line.startswith("result ")) for out, _ in outputs]
    return [(int(line.split()[2]), line.split()[3]) for line in results]


def _output(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a process printed until it ended; one that hangs is made to tell where."""
    try:
        return process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        return process.communicate(timeout=30)


@pytest.fixture(scope="module", params=KINDS)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A kind of job, and what it comes to when nothing interrupts it."""
    folder = tmp_path_factory.mktemp("unbroken")
    (_, first), (_, second) = trained(request.param, folder / "run", folder / "disk", 8, each_node=False)
    assert first == second
    return request.param, first


@pytest.mark.parametrize("each_node", [False, True], ids=["one folder", "a folder each"])
def test_ranks_go_on_where_they_stopped_with_empty_disks(
    tmp_path: Path, unbroken: tuple[str, str], *, each_node: bool
) -> None:
    kind, whole = unbroken
    first = trained(kind, tmp_path / "run", tmp_path / "first", 4, each_node=each_node)
    assert {start for start, _ in first} == {0}
    assert whole not in {digest for _, digest in first}
    second = trained(kind, tmp_path / "run", tmp_path / "second", 8, each_node=each_node)
    assert second == [(4, whole)] * 2
    with open_run(tmp_path / "run") as run:
        manifests = list(run.catalog.history())
        assert [manifest.id.step for manifest in manifests] == ([8, 6, 4, 2] if kind == "trainer" else [7, 5, 3, 1])
        assert [manifest.id.epoch for manifest in manifests] == [2, 2, 1, 1]
        for manifest in manifests:
            assert not verify(run, manifest.snapshot).bad
            paths = {file.path for file in manifest.files}
            randoms = {path for path in paths if "rng_state_" in path or "random_states_" in path}
            assert len(randoms) == 2  # of both, whoever saved
            if each_node:
                assert {path.partition("/")[0] for path in paths} == {"node-0", "node-1"}
            else:
                assert all("/" not in path for path in paths)


def test_what_is_bad_on_one_node_is_passed_over_by_all(tmp_path: Path) -> None:
    trained("trainer", tmp_path / "run", tmp_path / "first", 4, each_node=True)
    (weights,) = (tmp_path / "run/data").glob("*-000000000004-*/node-1/model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    again = trained("trainer", tmp_path / "run", tmp_path / "second", 4, each_node=True)
    assert {start for start, _ in again} == {2}
