"""What `doctor` finds in buckets that lack a right, ignore a condition, or garble bytes; and that it cleans up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import CredentialsError, DeniedError, NotFoundError, TransientError
from ckptsync.options import S3, Agent, Config, Gcs
from ckptsync.run import open_run, run_on
from ckptsync.snapshot import layout
from ckptsync.store.base import Buffer, Stat, StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.doctor import Check, diagnose

BUCKET = [
    "list",
    "put",
    "get",
    "range",
    "stat",
    "conditional put",
    "race",
    "multipart",
    "uploads",
    "abort",
    "copy",
    "copy part",
    "odd key",
    "clock",
    "upload rate",
    "download rate",
    "delete",
    "newest snapshot",
]
MACHINE = ["signing", "state directory", "versions", "configuration"]


def states(run: Any) -> dict[str, Check]:
    return {check.name: check for check in diagnose(run)}


def not_ok(run: Any) -> dict[str, str]:
    return {name: check.state for name, check in states(run).items() if check.state != "ok"}


def test_a_good_bucket_passes_everything_and_is_left_as_it_was(run: Any, make: Any) -> None:
    make.snapshot(1)
    before = make.there()
    found = list(diagnose(run))
    assert [check.name for check in found] == BUCKET + MACHINE
    assert {check.state for check in found} == {"ok"}
    assert make.there() == before
    assert list(run.store.uploads("")) == []


def test_a_directory_passes_too(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", Config(state_dir=str(tmp_path / "state"))) as run:
        assert not_ok(run) == {}
        assert list(run.store.list("")) == []


def test_a_reader_who_stops_early_leaves_nothing(run: Any, make: Any) -> None:
    found = diagnose(run)
    for check in found:
        if check.name == "uploads":
            break
    assert make.there()
    found.close()
    assert make.there() == []
    assert list(run.store.uploads("")) == []


@pytest.mark.req(32)
@pytest.mark.parametrize(
    ("verb", "fails"),
    [
        ("list", {"list", "odd key", "delete", "newest snapshot"}),
        ("put", {"put"}),
        ("get", {"get", "conditional put", "race", "multipart", "copy", "odd key"}),
        ("stat", {"stat", "clock"}),
        ("delete", {"delete"}),
        ("begin", {"multipart", "uploads", "abort"}),
        ("put_part", {"multipart", "abort"}),
        ("parts", {"multipart", "abort"}),
        ("finish", {"multipart"}),
        ("abort", {"abort", "delete"}),
        ("uploads", {"uploads"}),
        ("copy", {"copy"}),
        ("copy_part", {"copy part"}),
    ],
)
def test_a_missing_right_is_named_and_the_rest_goes_on(run: Any, store: Any, verb: str, fails: set[str]) -> None:
    def deny(called: str, key: str) -> None:
        del key
        if called == verb or (verb == "get" and called == "read"):
            raise DeniedError(f"access denied: the credentials need s3:Right-{verb} on bucket")

    store.before = deny
    found = states(run)
    failed = {name for name, check in found.items() if check.state == "fail"}
    assert failed <= fails
    assert failed
    assert all(f"s3:Right-{verb}" in found[name].detail for name in failed)
    assert all("right" in found[name].detail for name in failed)
    assert list(found) == BUCKET + MACHINE
    skipped = {name: check.detail for name, check in found.items() if check.state == "warn"}
    assert all("not tried, because" in detail for detail in skipped.values())
    assert all(found[name].state == "ok" for name in set(found) - failed - set(skipped))
    if verb not in {"delete", "abort"}:
        assert list(store.inner.list("")) == []


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("bucket 'b' does not exist"),
        CredentialsError("no usable credentials"),
        TransientError("the connection failed"),
    ],
)
def test_a_bucket_out_of_reach_is_asked_once(run: Any, store: Any, error: Exception) -> None:
    store.fail("list", error)
    found = list(diagnose(run))
    assert [check.name for check in found] == ["list", *MACHINE]
    assert (found[0].state, str(error) in found[0].detail) == ("fail", True)
    assert store.count().total() == 1


def test_missing_credentials_on_s3_hint_at_the_hop_limit(run: Any, store: Any) -> None:
    store.fail("list", CredentialsError("no usable credentials"))
    assert "hop limit" in next(diagnose(dataclasses.replace(run, url="s3://bucket/run"))).detail
    assert "hop limit" not in next(diagnose(run)).detail


class Ignoring(StoreWrapper):
    """A service that does not look at the condition."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        del if_absent
        return self.inner.put(key, data)


class Trailing(StoreWrapper):
    """A service that keeps the checksum trailer as content."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        return self.inner.put(key, bytes(data) + b"\r\nx-amz-checksum-crc32:AAAA", if_absent=if_absent)


class Renaming(StoreWrapper):
    """A service that decodes a plus sign."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        return self.inner.put(key.replace("+", " "), data, if_absent=if_absent)


class Forbidding(StoreWrapper):
    """What S3 says of a missing key to those who may not list."""

    def stat(self, key: str) -> Stat:
        try:
            return self.inner.stat(key)
        except NotFoundError as error:
            raise DeniedError("s3:ListBucket") from error


class Forgetting(StoreWrapper):
    """A service whose listing of parts is empty."""

    def parts(self, upload: Any) -> Any:
        self.inner.parts(upload)
        return {}


class Racy(StoreWrapper):
    """A service that lets everybody win who asks at once, and refuses only later."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        return self.inner.put(key, data, if_absent=if_absent and not key.endswith("/race"))


@pytest.mark.req(22)
def test_an_ignored_condition(run_with: Any, store: Any) -> None:
    found = states(run_with(on=Ignoring(store)))
    assert (found["conditional put"].state, "ignored" in found["conditional put"].detail) == ("fail", True)
    assert "single_writer" in found["conditional put"].detail
    assert found["race"].state == "warn"
    assert not_ok(run_with(on=Ignoring(store), single_writer=True)) == {"conditional put": "warn", "race": "warn"}


def test_a_race_with_many_winners(run_with: Any, store: Any) -> None:
    found = states(run_with(on=Racy(store)))
    assert (found["conditional put"].state, found["race"].state) == ("ok", "fail")
    assert "8 are told that they won" in found["race"].detail


def test_a_store_that_says_it_has_no_conditions(run_with: Any, store: Any) -> None:
    plain = StoreWrapper(store)
    plain.traits = dataclasses.replace(plain.traits, conditional_put=False)
    assert not_ok(run_with(on=plain)) == {"conditional put": "fail", "race": "warn"}
    assert not_ok(run_with(on=plain, single_writer=True)) == {"conditional put": "warn", "race": "warn"}


def test_a_store_that_can_do_little(run_with: Any, store: Any) -> None:
    plain = StoreWrapper(store)
    plain.traits = dataclasses.replace(plain.traits, multipart=False, copy=False, copy_part=False)
    found = states(run_with(on=plain))
    lacking = {name for name, check in found.items() if check.state == "warn"}
    assert lacking == {"multipart", "uploads", "abort", "copy", "copy part"}
    assert "starts over" in found["multipart"].detail
    assert "fail" not in {check.state for check in found.values()}


@pytest.mark.req(22)
def test_trailers_inside_the_object(run_with: Any, store: Any) -> None:
    found = states(run_with(on=Trailing(store)))
    assert (found["get"].state, "checksum trailer" in found["get"].detail) == ("fail", True)


def test_keys_under_another_name(run_with: Any, store: Any) -> None:
    found = not_ok(run_with(on=Renaming(store)))
    assert found == {"odd key": "fail", "delete": "fail"}
    assert list(store.list("")) == []


@pytest.mark.req(32)
def test_403_for_a_missing_object(run_with: Any, store: Any) -> None:
    found = states(run_with(on=Forbidding(store)))
    assert found["stat"].state == "fail"
    assert "s3:ListBucket" in found["stat"].detail


def test_parts_that_cannot_be_listed_again(run_with: Any, store: Any) -> None:
    found = states(run_with(on=Forgetting(store)))
    assert (found["multipart"].state, "could not be continued" in found["multipart"].detail) == ("fail", True)
    assert found["copy part"].state == "warn"
    assert list(store.uploads("")) == []


@pytest.mark.parametrize(
    ("off_s", "state", "word"),
    [
        (0.0, "ok", "agree"),
        (-50.0, "ok", "agree"),
        (200.0, "warn", "behind"),
        (-200.0, "warn", "ahead of"),
        (1200.0, "fail", ""),
    ],
)
def test_the_clock(off_s: float, state: str, word: str, tmp_path: Path) -> None:
    store = MemoryStore(clock=FakeClock(now_s=1e9 + off_s))
    run = run_on(store, Config(state_dir=str(tmp_path)), clock=FakeClock(now_s=1e9))
    found = states(run)["clock"]
    assert (found.state, word in found.detail) == (state, True)


def test_damage_in_the_newest_snapshot(run: Any, make: Any) -> None:
    snapshot = make.snapshot(1, {"w": b"weights"})
    assert "1 of 1 parts" in states(run)["newest snapshot"].detail
    run.store.put(layout.data_key(snapshot, "w"), b"Weights")
    assert "is damaged: w" in states(run)["newest snapshot"].detail
    run.store.put(layout.manifest_key(snapshot), b"{}")
    assert not_ok(run) == {"newest snapshot": "fail"}


def test_a_state_directory_that_cannot_be_written(tmp_path: Path, clock: Any) -> None:
    (tmp_path / "file").write_text("")
    config = Config(state_dir=str(tmp_path / "file" / "state"))
    found = states(run_on(MemoryStore(clock=clock), config, clock=clock))["state directory"]
    assert (found.state, "set state_dir" in found.detail) == ("warn", True)


def test_versions_and_configuration_without_secrets(tmp_path: Path, clock: Any) -> None:
    config = Config(
        state_dir=str(tmp_path),
        s3=S3(endpoint_url="https://me:s3cret@minio:9000/x"),
        gcs=Gcs(endpoint_url="http://tok3n@localhost:1"),
        agent=Agent(drain_token="dr41n"),
    )
    found = states(run_on(MemoryStore(clock=clock), config, clock=clock))
    text = found["configuration"].detail
    assert 's3.endpoint_url = "https://***@minio:9000/x"' in text
    assert "agent.drain_token = (hidden)" in text
    assert "dr41n" not in text
    assert "s3cret" not in text
    assert "tok3n" not in text
    assert "transfer.part_bytes = 16777216" in text
    assert "s3.region = unset" in text
    assert "single_writer = false" in text
    assert "msgspec" in found["versions"].detail
