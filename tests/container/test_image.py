"""The image, really built and really run: as a stranger's user, with a root that nobody can write to."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.waiting import LONG_S, wait_until

from ckptsync.run import open_run
from ckptsync.testing.servers import create_bucket, ministack
from ckptsync.verbs.verify import verify

from .engine import IMAGE, ROOT, SAFE, Engine

BUCKET = "containers"
MARKED = "checkpoint-7"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A loopback S3, which containers reach over the machine's own network."""
    with ministack() as server:
        create_bucket(server, BUCKET)
        yield dict(server.environ)


def variables(environ: dict[str, str]) -> list[str]:
    return [part for name, value in environ.items() for part in ("--env", f"{name}={value}")]


def write_checkpoint(volume: Path) -> None:
    """A folder that is said to be whole."""
    folder = volume / MARKED
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 1000)
    (folder / ".ckptsync-ready").touch()


def test_it_is_small_and_starts_soon(engine: Engine) -> None:
    assert engine.inspected(IMAGE, "image")["Size"] < 250_000_000
    begun = []
    for _ in range(3):
        begun_s = time.monotonic()
        done = engine.ended("--no-healthcheck", *SAFE, IMAGE, "--version")
        begun.append(time.monotonic() - begun_s)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("ckptsync ")
    assert min(begun) < 1.0, begun


def test_it_says_how_it_is_to_be_run(engine: Engine) -> None:
    config = engine.inspected(IMAGE, "image")["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["ckptsync"]
    assert config["Cmd"] == ["agent"]
    assert set(config["Volumes"]) == {"/data", "/state"}
    assert config["StopSignal"] == "SIGTERM"
    assert engine.inspected(IMAGE, "image")["Healthcheck"]["Test"][0] == "CMD"


def test_nothing_of_the_tree_but_the_package_is_in_it(engine: Engine) -> None:
    script = "find / -xdev \\( -name '.git' -o -name 'pip.conf' -o -name tests -path '/opt/*' -o -path '/src/*' \\)"
    done = engine.ended("--no-healthcheck", "--entrypoint", "sh", IMAGE, "-c", script)
    assert done.stdout == ""
    history = engine.podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", IMAGE)
    assert "SECRET" not in history.upper()
    assert "TOKEN" not in history.upper()


def test_the_dockerfile_asks_nothing_that_plain_buildah_lacks() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert "syntax=" not in text
    assert "<<" not in text
    assert "--link" not in text
    assert "--mount" not in text


def test_both_clouds_can_be_spoken_to(engine: Engine) -> None:
    code = (
        "import boto3, awscrt, google.cloud.storage, watchfiles, waitress, prometheus_client, cryptography, zstandard"
    )
    done = engine.ended("--no-healthcheck", *SAFE, "--entrypoint", "python", IMAGE, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.req(5, 13, 37)
def test_a_sidecar_commits_is_healthy_and_drains(engine: Engine, s3: dict[str, str], volume: Path) -> None:
    url, port = f"s3://{BUCKET}/sidecar", "18460"
    (volume / "data").mkdir()
    (volume / "state").mkdir(mode=0o777)
    (volume / "state").chmod(0o777)
    arguments = [
        *("--no-healthcheck", "--network", "host", *SAFE, *variables(s3)),
        *("--env", f"CKPTSYNC_RUN={url}", "--env", f"CKPTSYNC_AGENT_PORT={port}"),
        *("--volume", f"{volume / 'data'}:/data:ro", "--volume", f"{volume / 'state'}:/state"),
    ]
    with engine.container(*arguments, IMAGE, "agent", "--notices", "none") as name:
        write_checkpoint(volume / "data")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        wait_until(lambda: status(port)["commits"] == 1)
        health = engine.inspected(IMAGE, "image")["Healthcheck"]["Test"][1:]
        assert engine.told("podman", "exec", name, *health, check=False).returncode == 0
        begun_s = time.monotonic()
        engine.podman("stop", "--time", "30", name)
        assert time.monotonic() - begun_s < 10
        assert engine.inspected(name)["State"]["ExitCode"] == 0, engine.told("podman", "logs", name).stderr
    check_committed(url, s3)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=LONG_S) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def status(port: str) -> dict[str, object]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status.json", timeout=LONG_S) as answer:
        found: dict[str, object] = json.load(answer)
    return found


def check_committed(url: str, environ: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environ.items():
            patch.setenv(name, value)
        with open_run(url) as run:
            newest = run.catalog.latest()
            assert newest is not None
            assert newest.id.step == 7
            assert not verify(run).bad


def test_what_is_whole_when_it_is_stopped_is_committed(engine: Engine, s3: dict[str, str], volume: Path) -> None:
    url = f"s3://{BUCKET}/late"
    arguments = ["--no-healthcheck", "--network", "host", *variables(s3), "--env", "CKPTSYNC_AGENT_PORT=18461"]
    with engine.container(
        *arguments, "--volume", f"{volume}:/data", IMAGE, "agent", "/data", url, "--watch", "polling", "--poll", "600s"
    ) as name:
        wait_until(lambda: answers("http://127.0.0.1:18461/readyz"))
        write_checkpoint(volume)
        engine.podman("stop", "--time", "30", name)
        assert engine.inspected(name)["State"]["ExitCode"] == 0
    check_committed(url, s3)


def test_a_verb_runs_as_any_user(engine: Engine, s3: dict[str, str], volume: Path) -> None:
    url = f"s3://{BUCKET}/user"
    write_checkpoint(volume)
    common = [
        "--no-healthcheck",
        "--network",
        "host",
        "--user",
        "4321:4321",
        *SAFE,
        "--tmpfs",
        "/state:mode=1777",
        *variables(s3),
    ]
    saved = engine.ended(
        *common, "--volume", f"{volume}:/data:ro", IMAGE, "save", "/data", url, "--step", "7", "--json"
    )
    assert saved.returncode == 0, saved.stderr
    assert json.loads(saved.stdout)["step"] == 7
    check_committed(url, s3)
    listed = engine.ended(*common, IMAGE, "ls", url, "--json")
    assert json.loads(listed.stdout.splitlines()[0])["step"] == 7


def test_run_is_the_first_process_and_ends_with_its_commands_code(
    engine: Engine, s3: dict[str, str], volume: Path
) -> None:
    url = f"s3://{BUCKET}/run"
    script = "mkdir /data/c/checkpoint-7 && echo x > /data/c/checkpoint-7/w && touch /data/c/checkpoint-7/.ckptsync-ready; exit 9"
    common = [
        "--no-healthcheck",
        "--network",
        "host",
        *SAFE,
        "--tmpfs",
        "/tmp",  # noqa: S108  of the container
        *variables(s3),
        "--env",
        "CKPTSYNC_AGENT_PORT=18462",
    ]
    done = engine.ended(
        *common, "--volume", f"{volume}:/data", "--tmpfs", "/state:mode=1777", IMAGE,
        "run", url, "--dir", "/data/c", "--notices", "none", "--", "sh", "-c", script,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    check_committed(url, s3)
