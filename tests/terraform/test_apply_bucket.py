"""The module applied for real, on moto: what each role may is enough for its verbs, and what it may not is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from support.aws_account import BUCKET, MODULE, PREFIX, Account, Keys, account
from support.guarded_s3 import GuardedS3, guarded_s3
from support.iam import judge

from ckptsync.snapshot import layout

pytestmark = pytest.mark.slow  # the example, which is applied in any case, holds it
MIB = 1 << 20
CKPTSYNC = (sys.executable, "-c", "from ckptsync.cli.main import main; main()")


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with account(tmp_path_factory.mktemp("apply"), MODULE, prefix=PREFIX, create_kms_key=True) as made:
        made.do("apply", "-auto-approve")
        yield made


@pytest.fixture(scope="module")
def guard(applied: Account) -> Iterator[GuardedS3]:
    with judge() as simulator, guarded_s3(applied.server.url, simulator) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody with the keys of a role.

    Attributes:
        keys: of the role.
        environ: of the processes that are started.
        client: of boto3, for S3.
    """

    keys: Keys
    environ: Mapping[str, str]
    client: Any

    def run(self, *words: str, code: int = 0) -> str:
        """Run ckptsync; what it said on stdout, or on stderr where it is to fail in words."""
        command = [*CKPTSYNC, *words]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout if "--json" in words else done.stderr if code else done.stdout


Cast = Callable[[str], Actor]


@pytest.fixture
def actor(applied: Account, guard: GuardedS3, tmp_path: Path) -> Cast:
    """Casts somebody in a role."""

    def cast(role: str) -> Actor:
        keys = applied.assume(role)
        guard.by_key[keys.access_key] = applied.rights(role)
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CKPTSYNC_"))},
            **applied.server.environ,
            **keys.environ,
            "AWS_ENDPOINT_URL_S3": guard.url,
            "CKPTSYNC_STATE_DIR": str(tmp_path / "state"),
        }
        return Actor(keys, environ, applied.client("s3", keys, guard.url))

    return cast


@pytest.fixture
def run_url(request: pytest.FixtureRequest) -> str:
    """A run of the test's own."""
    return f"s3://{BUCKET}/{PREFIX}/team/{request.node.name.replace('[', '-').rstrip(']')}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint with a file that is cut into parts."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(os.urandom(21 * MIB))
    (folder / "state.json").write_text("{}")
    return folder


def objects(applied: Account, run: str) -> list[str]:
    """Keys of a run, relative to it."""
    prefix = run.removeprefix(f"s3://{BUCKET}/") + "/"
    return [key.removeprefix(prefix) for key in applied.keys_below(prefix)]


def below(applied: Account, run: str, folder: str) -> list[str]:
    return [key for key in objects(applied, run) if key.startswith(folder)]


def test_a_second_plan_changes_nothing(applied: Account) -> None:
    assert "No changes." in applied.do("plan", "-detailed-exitcode")  # 2 is for changes


def test_the_doctor_that_terraform_prescribes_is_content_with_the_trainers_rights(
    applied: Account, actor: Cast
) -> None:
    program, verb, *words = shlex.split(applied.outputs()["commands"]["doctor"])
    assert (program, verb) == ("ckptsync", "doctor")
    checks = json.loads(actor("trainer").run(verb, *words, "--json"))["checks"]
    assert {check["name"] for check in checks if check["state"] != "ok"} == set()
    assert len(checks) > 15
    assert objects(applied, words[0]) == []


@pytest.mark.parametrize("role", ["reader", "gc"])
def test_the_doctor_names_what_other_roles_lack(role: str, actor: Cast, run_url: str) -> None:
    told = json.loads(actor(role).run("doctor", run_url, "--json", code=3))
    (put,) = (check for check in told["checks"] if check["name"] == "put")
    assert "s3:PutObject" in put["detail"]


def test_a_trainer_saves_names_checks_and_restores(actor: Cast, run_url: str, model: Path, tmp_path: Path) -> None:
    trainer = actor("trainer")
    for step in ("100", "200"):
        trainer.run("save", str(model), run_url, "--step", step, "--alias", "best")
    trainer.run("promote", run_url, "100", "stable")
    trainer.run("pin", run_url, "100")
    trainer.run("verify", run_url)
    trainer.run("status", run_url)
    trainer.run("restore", run_url, str(tmp_path / "back"))
    assert (tmp_path / "back" / "weights.bin").read_bytes() == (model / "weights.bin").read_bytes()


def stop_before_commit(guard: GuardedS3, who: Actor, *words: str) -> None:
    """Run ckptsync, which is refused its commit: as if it were killed when all files were in the bucket."""
    key = who.keys.access_key
    mine = guard.by_key[key]
    no_commit = {"Effect": "Deny", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::*/manifests/*"}
    guard.by_key[key] = replace(mine, identity=[*mine.identity, {"Version": "2012-10-17", "Statement": [no_commit]}])
    try:
        who.run(*words, code=3)
    finally:
        guard.by_key[key] = mine


def test_an_interrupted_save_is_continued(
    applied: Account, guard: GuardedS3, actor: Cast, run_url: str, model: Path
) -> None:
    trainer = actor("trainer")
    stop_before_commit(guard, trainer, "save", str(model), run_url, "--step", "100")
    saved = json.loads(trainer.run("save", str(model), run_url, "--step", "100", "--json"))
    assert saved["bytes_sent"] == 0
    assert len(below(applied, run_url, "data/")) == 2
    assert len([key for key in objects(applied, run_url) if "/adopted-by/" in key]) == 1


def test_what_gc_has_condemned_is_not_continued(
    applied: Account, guard: GuardedS3, actor: Cast, run_url: str, model: Path
) -> None:
    trainer, gc = actor("trainer"), actor("gc")
    stop_before_commit(guard, trainer, "save", str(model), run_url, "--step", "100")
    (attempt,) = {key.split("/")[1] for key in below(applied, run_url, "data/")}
    found = layout.parse_snapshot_id(attempt)
    assert found
    key = f"{run_url.removeprefix(f's3://{BUCKET}/')}/{layout.condemned_key(found)}"
    gc.client.put_object(Bucket=BUCKET, Key=key, Body=b"")
    saved = json.loads(trainer.run("save", str(model), run_url, "--step", "100", "--json"))
    assert saved["bytes_sent"] > 21 * MIB
    assert not [key for key in objects(applied, run_url) if "/adopted-by/" in key]  # taken back


def test_ranks_save_together(actor: Cast, run_url: str, model: Path, tmp_path: Path) -> None:
    trainer = actor("trainer")

    def save(rank: int) -> str:
        common = ("save", str(model), run_url, "--step", "100", "--world", "2", "--launch", "job-1")
        return trainer.run(
            *common, "--rank", str(rank), "--under", f"rank-{rank}", "--state-dir", str(tmp_path / str(rank))
        )

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(save, range(2)))
    trainer.run("restore", run_url, str(tmp_path / "back"))
    assert (tmp_path / "back" / "rank-1" / "weights.bin").stat().st_size == 21 * MIB


def test_a_trainer_cannot_collect_or_remove(applied: Account, actor: Cast, run_url: str, model: Path) -> None:
    trainer = actor("trainer")
    for step in ("100", "200"):
        trainer.run("save", str(model), run_url, "--step", step)
    before = objects(applied, run_url)
    for words in (["gc", run_url, "--keep-last", "1"], ["rm", run_url, "100"]):
        said = trainer.run(*words, code=3)
        assert "access denied" in said
    assert objects(applied, run_url) == before


def test_retention_behind_a_trainers_save_fails_alone(
    applied: Account, actor: Cast, run_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "train.py"
    program.write_text(
        "import sys\n"
        "from ckptsync import CheckpointManager, EveryNSteps, LatestN\n"
        "with CheckpointManager(sys.argv[1], save=EveryNSteps(1), keep=LatestN(1)) as manager:\n"
        "    for step in (1, 2):\n"
        "        manager.save(step, state={'step': step})\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), run_url],
        env=actor("trainer").environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(below(applied, run_url, "manifests/")) == 2
    assert not [key for key in objects(applied, run_url) if key.endswith("/condemned")]


def test_gc_collects_and_removes(applied: Account, actor: Cast, run_url: str, model: Path) -> None:
    trainer, gc = actor("trainer"), actor("gc")
    for step in ("100", "200", "300"):
        (model / "state.json").write_text(step)
        trainer.run("save", str(model), run_url, "--step", step, "--alias", f"s{step}")
    trainer.run("pin", run_url, "100")
    gc.run("unpin", run_url, "100")
    gc.run("rm", run_url, "100", "--force")
    assert len(below(applied, run_url, "manifests/")) == 2
    trainer.run("promote", run_url, "300", "s200")
    collected = json.loads(gc.run("gc", run_url, "--keep-last", "1", "--grace", "0s", "--json"))
    assert len(collected["removed"]) == 1
    assert len(below(applied, run_url, "manifests/")) == 1
    assert len(below(applied, run_url, "data/")) == 2
    assert gc.run("ls", run_url)


def test_gc_cannot_save(actor: Cast, run_url: str, model: Path) -> None:
    assert "s3:PutObject" in actor("gc").run("save", str(model), run_url, "--step", "100", code=3)


def test_a_reader_restores_with_a_lease_and_cannot_save(
    applied: Account, guard: GuardedS3, actor: Cast, run_url: str, model: Path, tmp_path: Path
) -> None:
    actor("trainer").run("save", str(model), run_url, "--step", "100")
    reader, seen = actor("reader"), len(guard.allowed)
    reader.run("restore", run_url, str(tmp_path / "back"))
    assert (tmp_path / "back" / "weights.bin").stat().st_size == 21 * MIB
    leases = {asked.split()[0] for asked in guard.allowed[seen:] if "/leases/" in asked}
    assert leases == {"s3:PutObject", "s3:DeleteObject"}
    assert below(applied, run_url, "leases/") == []
    assert "s3:PutObject" in reader.run("save", str(model), run_url, "--step", "200", code=3)


def test_a_trainer_quarantines_what_is_damaged_and_lifts_it(
    applied: Account, actor: Cast, run_url: str, model: Path
) -> None:
    trainer, admin = actor("trainer"), applied.client("s3")
    trainer.run("save", str(model), run_url, "--step", "100")
    (key,) = (key for key in below(applied, run_url, "data/") if key.endswith("weights.bin"))
    whole = f"{run_url.removeprefix(f's3://{BUCKET}/')}/{key}"
    good = (model / "weights.bin").read_bytes()
    admin.put_object(Bucket=BUCKET, Key=whole, Body=b"\0" + good[1:])
    trainer.run("verify", run_url, "100", code=4)
    assert len(below(applied, run_url, "quarantine/")) == 1
    admin.put_object(Bucket=BUCKET, Key=whole, Body=good)
    trainer.run("verify", run_url, "100")
    assert below(applied, run_url, "quarantine/") == []


MANIFEST = f"{PREFIX}/a/{layout.manifest_key(layout.new_snapshot_id(1, 100))}"
FILE = f"{PREFIX}/a/{layout.data_key(layout.new_snapshot_id(1, 100), 'x')}"
ATTEMPTS: list[tuple[str, str, bool, Callable[[Any], object]]] = [
    ("trainer", "commits", True, lambda s3: s3.put_object(Bucket=BUCKET, Key=MANIFEST, Body=b"1", IfNoneMatch="*")),
    ("trainer", "overwrites a commit", False, lambda s3: s3.put_object(Bucket=BUCKET, Key=MANIFEST, Body=b"2")),
    (
        "trainer",
        "replaces a commit in parts",
        False,
        lambda s3: s3.create_multipart_upload(Bucket=BUCKET, Key=MANIFEST),
    ),
    (
        "trainer",
        "copies over a commit",
        False,
        lambda s3: s3.copy_object(Bucket=BUCKET, Key=MANIFEST, CopySource=f"{BUCKET}/{MANIFEST}"),
    ),
    ("trainer", "deletes a commit", False, lambda s3: s3.delete_object(Bucket=BUCKET, Key=MANIFEST)),
    ("trainer", "writes a file", True, lambda s3: s3.put_object(Bucket=BUCKET, Key=FILE, Body=b"1")),
    ("trainer", "deletes a file", False, lambda s3: s3.delete_object(Bucket=BUCKET, Key=FILE)),
    ("trainer", "writes outside", False, lambda s3: s3.put_object(Bucket=BUCKET, Key="runs2/x", Body=b"1")),
    ("trainer", "reads outside", False, lambda s3: s3.get_object(Bucket=BUCKET, Key="runs2/x")),
    ("trainer", "lists its runs", True, lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="runs/")),
    ("trainer", "lists everything", False, lambda s3: s3.list_objects_v2(Bucket=BUCKET)),
    ("trainer", "lists another's runs", False, lambda s3: s3.list_objects_v2(Bucket=BUCKET, Prefix="runs2/")),
    ("trainer", "drops the policy", False, lambda s3: s3.delete_bucket_policy(Bucket=BUCKET)),
    ("trainer", "changes the lifecycle", False, lambda s3: s3.delete_bucket_lifecycle(Bucket=BUCKET)),
    ("reader", "reads a file", True, lambda s3: s3.get_object(Bucket=BUCKET, Key=FILE)),
    ("reader", "overwrites a file", False, lambda s3: s3.put_object(Bucket=BUCKET, Key=FILE, Body=b"2")),
    ("reader", "deletes a file", False, lambda s3: s3.delete_object(Bucket=BUCKET, Key=FILE)),
    ("gc", "overwrites a file", False, lambda s3: s3.put_object(Bucket=BUCKET, Key=FILE, Body=b"2")),
    ("gc", "deletes the bucket", False, lambda s3: s3.delete_bucket(Bucket=BUCKET)),
    ("gc", "deletes a commit", True, lambda s3: s3.delete_object(Bucket=BUCKET, Key=MANIFEST)),
    ("gc", "deletes a file", True, lambda s3: s3.delete_object(Bucket=BUCKET, Key=FILE)),
]


def test_who_may_what_with_an_object(actor: Cast) -> None:
    clients = {role: actor(role).client for role in ("trainer", "reader", "gc")}
    found = [f"{role} {what}: {_passes(attempt, clients[role])}" for role, what, _, attempt in ATTEMPTS]
    assert found == [f"{role} {what}: {wanted}" for role, what, wanted, _ in ATTEMPTS]


def _passes(attempt: Callable[[Any], object], client: Any) -> bool:
    try:
        attempt(client)
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"AccessDenied", "403"}:
            raise
        return False
    return True


def test_a_bucket_with_checkpoints_and_its_key_survive_a_destroy(applied: Account) -> None:
    key = applied.outputs()["kms_key_arn"]
    applied.client("s3").put_object(Bucket=BUCKET, Key=f"{PREFIX}/last", Body=b"1")
    with pytest.raises(AssertionError, match="BucketNotEmpty"):
        applied.do("destroy", "-auto-approve")
    assert applied.client("s3").get_object(Bucket=BUCKET, Key=f"{PREFIX}/last")["Body"].read() == b"1"
    assert applied.client("kms").describe_key(KeyId=key)["KeyMetadata"]["KeyState"] == "Enabled"


def test_nothing_is_left_where_that_was_asked_for(applied: Account) -> None:
    applied.variables["force_destroy"] = True
    applied.do("apply", "-auto-approve", "-target=aws_s3_bucket.this")
    applied.do("destroy", "-auto-approve")
    assert applied.inventory() == applied.before
