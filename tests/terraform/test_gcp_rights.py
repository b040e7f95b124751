"""What the roles of gcp-bucket let trainers, readers and gc do, by their conditions, and that ckptsync gets on with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.google_iam import GuardedGcs, Policy, extract, policy
from support.mocked import made
from support.terraform import Terraform

from ckptsync.cli.main import cli
from ckptsync.errors import ConflictError, DeniedError
from ckptsync.run import open_run
from ckptsync.testing.gcs.wire import Kind

BUCKET, ID = "a-bucket", "00000002-000000000200-w0x9ddma"
CREATE, GET, DELETE, LIST = (f"storage.objects.{verb}" for verb in ("create", "get", "delete", "list"))
PARTS = tuple(f"storage.multipartUploads.{verb}" for verb in ("create", "abort", "listParts"))
UPLOADS = "storage.multipartUploads.list"
COMMITTED = (
    "manifests/99999997-999999999799-w0x9ddma.json",
    f"data/{ID}/model.safetensors",
    f"data/{ID}/leases/x",
    f"data/{ID}/journals/doctor-1/quarantine",
    "writers/99999997.json",
    f"pins/{ID}",
    "aliases/best/99999998.json",
    "ranks/99999997-999999999799-w0x9ddma/00000-of-00002.json",
    "launches/0123456789abcdef0123456789abcdef",
)
ITS_OWN = (
    f"leases/{ID}/q7t1m0ze",
    "journals/99999997-999999999799-w0x9ddma/journal-00001.json",
    f"journals/99999997-999999999799-w0x9ddma/adopted-by/{ID}",
    f"quarantine/{ID}.json",
    "doctor-0123456789abcdef/small",
)
OUTSIDE = ("team/runs-2/run/leases/x/y", "team/other/leases/x/y", "leases/x/y", "team/runs")
EVERYBODY = ("trainer", "reader", "gc")

Call = Callable[..., str]


@pytest.fixture(scope="module")
def rights(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """What the module makes of a prefix."""
    variables = {"project": "a-project", "bucket_name": BUCKET, "location": "EU", "prefix": "team/runs"}
    return policy(made(terraform, tmp_path_factory.mktemp("prefix"), "gcp-bucket", variables), BUCKET)


@pytest.fixture(scope="module")
def everywhere(terraform: Terraform, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """What it makes without one."""
    variables = {"project": "a-project", "bucket_name": BUCKET, "location": "EU"}
    return policy(made(terraform, tmp_path_factory.mktemp("bucket"), "gcp-bucket", variables), BUCKET)


@pytest.mark.parametrize("key", [*COMMITTED, *ITS_OWN])
def test_what_a_trainer_may(rights: Policy, everywhere: Policy, key: str) -> None:
    for found, run in ((rights, "team/runs/run-7"), (everywhere, "run-7")):
        for permission in (CREATE, GET, LIST, UPLOADS, *PARTS):
            assert found.allows("trainer", permission, f"{run}/{key}")
        assert found.allows("trainer", DELETE, f"{run}/{key}") == (key in ITS_OWN)


@pytest.mark.parametrize("run", ["team/runs/leases", "team/runs/leases/journals", "team/runs/a/quarantine/b"])
@pytest.mark.parametrize("key", COMMITTED)
def test_no_name_of_a_run_lets_a_trainer_delete_a_commit(rights: Policy, run: str, key: str) -> None:
    assert not rights.allows("trainer", DELETE, f"{run}/{key}")


@pytest.mark.parametrize("key", [*COMMITTED, *ITS_OWN])
def test_what_a_reader_may(rights: Policy, everywhere: Policy, key: str) -> None:
    for found, run in ((rights, "team/runs/run-7"), (everywhere, "run-7")):
        assert found.allows("reader", GET, f"{run}/{key}")
        assert found.allows("reader", LIST, "")
        for permission in (CREATE, DELETE):
            assert found.allows("reader", permission, f"{run}/{key}") == key.startswith("leases/")
        for permission in (UPLOADS, *PARTS):
            assert not found.allows("reader", permission, f"{run}/{key}")


@pytest.mark.parametrize("key", [*COMMITTED, *ITS_OWN])
def test_what_gc_may(rights: Policy, everywhere: Policy, key: str) -> None:
    for found, run in ((rights, "team/runs/run-7"), (everywhere, "run-7")):
        for permission in (CREATE, GET, DELETE, LIST, UPLOADS, *PARTS[1:]):
            assert found.allows("gc", permission, f"{run}/{key}")
        assert not found.allows("gc", PARTS[0], f"{run}/{key}")


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("name", OUTSIDE)
def test_nobody_may_anything_outside_of_the_prefix(rights: Policy, who: str, name: str) -> None:
    for permission in (CREATE, GET, DELETE, *PARTS):
        assert not rights.allows(who, permission, name)


# The service's own examples: https://cloud.google.com/iam/docs/conditions-attribute-reference#extract
ORDERS = "projects/_/buckets/acme-orders-aaa/objects/data_lake/orders/order_date=2019-11-03/aef87g87ae0876"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("/order_date={date}/", "2019-11-03"),
        ("buckets/{name}/", "acme-orders-aaa"),
        ("/orders/{empty}order_date", ""),
        ("{start}/objects/data_lake", "projects/_/buckets/acme-orders-aaa"),
        ("orders/{end}", "order_date=2019-11-03/aef87g87ae0876"),
        ("{all}", ORDERS),
        ("/orders/{none}/order_date=", ""),
        ("/orders/order_date=2019-11-03/{id}/data_lake", ""),
        ("/leases/{rest}", ""),
    ],
)
def test_a_part_of_a_name_is_found_as_the_service_does(template: str, found: str) -> None:
    assert extract(ORDERS, template) == found


@pytest.fixture(params=["team/runs/run-7", "run-7"])
def bucket(
    request: pytest.FixtureRequest, rights: Policy, everywhere: Policy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[GuardedGcs, str]]:
    """A bucket that minds the rights, and a run in it; the trainer asks."""
    for name in [name for name in os.environ if name.startswith(("CKPTSYNC_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    with GuardedGcs(rights if "/" in request.param else everywhere) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        server.who = "trainer"
        yield server, f"gs://{BUCKET}/{request.param}"


def ckptsync(*arguments: object, code: int = 0) -> str:
    """What the program says."""
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ckptsync")
    assert done.exit_code == code, done.output
    return done.output


def checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint with a file that goes up in parts."""
    (folder / f"step-{step}").mkdir()
    (folder / f"step-{step}" / "model.bin").write_bytes(bytes([step % 251]) * (12 << 20))
    (folder / f"step-{step}" / "config.json").write_text(json.dumps({"step": step}))
    return folder / f"step-{step}"


def test_ckptsync_lives_with_them(bucket: tuple[GuardedGcs, str], tmp_path: Path) -> None:
    server, url = bucket
    assert "fail" not in ckptsync("doctor", url)
    for step in (1, 2, 3):
        ckptsync("save", checkpoint(tmp_path, step), url, "--step", step, "--alias", "newest")
    ckptsync("run", url, "--dir", tmp_path / "by-run", "--", "true")
    ckptsync("verify", url)
    ckptsync("pin", url, 3)
    server.who = "reader"
    ckptsync("restore", url, tmp_path / "restored")
    assert (tmp_path / "restored" / "config.json").read_text() == '{"step": 3}'
    ckptsync("ls", url)
    ckptsync("status", url)
    server.who = "gc"
    assert "2" in ckptsync("gc", url, "--keep-last", 1)
    assert server.refused == []
    assert {Kind.PARTS_START, Kind.PARTS_LIST, Kind.PARTS_UPLOADS, Kind.PARTS_ABORT} <= {
        kind for _, kind, _ in server.requests
    }
    server.who = "trainer"
    assert len(ckptsync("ls", url, "--json").splitlines()) == 1


@pytest.mark.parametrize(
    ("who", "arguments", "permission"),
    [
        ("trainer", ["rm", "{url}", "1", "--yes"], DELETE),
        ("trainer", ["gc", "{url}", "--keep-last", "1"], DELETE),
        ("trainer", ["unpin", "{url}", "1"], DELETE),
        ("reader", ["save", "{source}", "{url}", "--step", "9"], CREATE),
        ("reader", ["pin", "{url}", "1"], CREATE),
        ("reader", ["rm", "{url}", "1", "--yes"], DELETE),
    ],
)
def test_what_they_may_not_is_refused_and_named(
    bucket: tuple[GuardedGcs, str], tmp_path: Path, who: str, arguments: list[str], permission: str
) -> None:
    server, url = bucket
    source = checkpoint(tmp_path, 1)
    for step in (1, 2):
        ckptsync("save", source, url, "--step", step)
    server.who = who
    words = [word.format(url=url, source=source) for word in arguments]
    assert permission in ckptsync(*words, code=3)
    server.who = "reader"
    assert len(ckptsync("ls", url, "--json").splitlines()) == 2
    ckptsync("restore", url, tmp_path / "restored")


def test_a_run_elsewhere_is_refused(rights: Policy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with GuardedGcs(rights) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        server.who = "trainer"
        assert CREATE in ckptsync(
            "save", checkpoint(tmp_path, 1), f"gs://{BUCKET}/team/runs-2/run-7", "--step", 1, code=3
        )


def test_a_trainer_overwrites_no_commit(bucket: tuple[GuardedGcs, str], tmp_path: Path) -> None:
    _, url = bucket
    ckptsync("save", checkpoint(tmp_path, 1), url, "--step", 1)
    with open_run(url) as run:
        (manifest,) = (stat.key for stat in run.store.list("manifests/"))
        (claim,) = (stat.key for stat in run.store.list("writers/"))
        before = {key: run.store.read(key) for key in (manifest, claim)}
        for key in before:
            with pytest.raises(DeniedError, match=r"storage\.objects\.delete"):
                run.store.put(key, b"broken")
            with pytest.raises(ConflictError):  # so a second writer is told, and not that it lacks a right
                run.store.put(key, b"second", if_absent=True)
        assert {key: run.store.read(key) for key in before} == before
        with pytest.raises(DeniedError):
            run.store.delete([manifest])
