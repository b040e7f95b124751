"""Save, killed and called again: it continues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import ConflictError
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import Manifest
from ckptsync.store.base import StoreWrapper
from ckptsync.store.local import LocalStore
from ckptsync.transfer.journal import journal_path
from ckptsync.verbs.save import Saved, save

Check = Callable[[Run, Saved], Manifest]

SIZE = 5 * MIB + 7  # of the large file, as the fixture makes it
PARTS = 6


def journal(run: Run, source: Path) -> Path:
    return journal_path(run.config.state_path(), run.url, source)


@pytest.mark.req(7)
@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize("after", [0, 1, 3, 5, 6])
def test_a_killed_upload_is_continued_part_by_part(
    run_with: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    after: int,
    check: Check,
    *,
    lost: bool,
) -> None:
    run = run_with(workers=1)
    if after < PARTS:
        store.fail("put_part", killed, after=after)
    else:
        store.fail("finish", killed)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    assert run.catalog.latest() is None
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    manifest = check(run, saved)
    assert store.count()["put_part"] == PARTS - after
    continued = after > 0 or not lost  # an upload without parts tells nothing, unless the journal does
    assert store.count()["begin"] == (0 if continued else 1)
    assert saved.epoch == 2
    assert not journal(run, source).exists()
    first = {entry.path: entry for entry in manifest.files}["model.bin"]
    assert first.key.startswith("data/00000001-") is continued


@pytest.mark.req(7)
@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_files_that_were_sent_before_the_kill_are_not_sent_again(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check, *, lost: bool
) -> None:
    run = run_with(workers=1)
    (source / "model.bin").rename(source / "z.bin")  # the large file comes last
    (source / "latest").unlink()
    store.fail("put_part", killed)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    check(run, saved)
    assert (saved.bytes_sent, saved.parts_sent, saved.bytes_reused) == (SIZE, PARTS, 1002)
    sent = [key for verb, key in store.calls if verb == "put" and key.startswith("data/")]
    assert all(key.endswith("/nothing") for key in sent)  # empty files are cheaper to put than to prove


@pytest.mark.req(7, 29)
@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_a_file_whose_finish_was_not_answered_is_not_sent_again(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check, *, lost: bool
) -> None:
    run = run_with(workers=1)

    def kill(verb: str, _: str) -> None:
        if verb == "finish":
            raise killed

    store.after = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    entries = {entry.path: entry for entry in check(run, saved).files}
    assert "put_part" not in store.count()
    assert entries["model.bin"].key.startswith("data/00000001-")
    assert saved.bytes_reused == SIZE + 2  # and the small file before it


@pytest.mark.req(7, 29)
def test_an_upload_that_a_late_request_finishes_meanwhile_is_not_sent_again(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    run = run_with(workers=1)
    store.fail("finish", killed)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    journal(run, source).unlink()

    def finish(verb: str, _: str) -> None:
        if verb == "parts":
            for upload in list(store.inner.uploads("")):
                store.inner.finish(upload, store.inner.parts(upload).values())

    store.before = finish
    check(run, saved := save(run, source, step=7))
    assert "put_part" not in store.count()
    assert saved.bytes_reused == SIZE + 2


@pytest.mark.parametrize("verb", ["list", "put"])
@pytest.mark.req(1, 7)
@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_killed_at_the_commit_nothing_is_sent_again(
    run: Run, store: Any, source: Path, killed: type[BaseException], verb: str, check: Check, *, lost: bool
) -> None:
    uploaded: list[bool] = []

    def kill(called: str, key: str) -> None:
        uploaded.extend([True] if called == "finish" else [])
        if uploaded and called == verb and key.startswith(("manifests/", "writers/")):
            raise killed

    store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    check(run, saved)
    assert (saved.bytes_sent, saved.parts_sent, saved.bytes_reused) == (0, 0, SIZE + 1002)


def test_killed_right_after_the_commit_the_next_save_names_the_same_data(
    run: Run, store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    def kill(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("manifests/"):
            raise killed

    store.after = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    assert run.catalog.latest() is not None
    saved = save(run, source, step=7)
    assert saved.bytes_sent == 0
    assert {entry.key.split("/")[1][:8] for entry in check(run, saved).files if entry.size} == {"00000001"}


def test_killed_twice_it_goes_on_where_the_second_stopped(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    run = run_with(workers=1)
    for expected in (PARTS, PARTS - 2, PARTS - 4):
        store.heal()
        if expected > 2:
            store.fail("put_part", killed, after=2)
            with pytest.raises(killed):
                save(run, source, step=7)
    store.heal()
    saved = save(run, source, step=7)
    check(run, saved)
    assert saved.epoch == 3
    assert store.count()["put_part"] == PARTS - 4


def test_killed_twice_without_any_journal(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    run = run_with(workers=1)
    for _ in range(2):
        store.fail("put_part", killed, after=2)
        with pytest.raises(killed):
            save(run, source, step=7)
        journal(run, source).unlink()
    store.heal()
    saved = save(run, source, step=7)
    check(run, saved)
    assert store.count()["put_part"] == PARTS - 4


@pytest.mark.req(7)
@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_what_changed_since_the_kill_is_sent_and_the_rest_is_kept(
    run_with: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    check: Check,
    change_part: Callable[[int], None],
    *,
    lost: bool,
) -> None:
    run = run_with(workers=1)
    store.fail("put_part", killed, after=4)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    change_part(2)
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    check(run, saved)
    assert saved.parts_sent == 1 + 2 + 1  # changed, missing, and the small file behind it in order


def test_a_kill_costs_another_step_nothing_but_its_own_bytes(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    """The journal of step 7 says nothing about step 8."""
    run = run_with(workers=1)
    store.fail("put_part", killed, after=4)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    saved = save(run, source, step=8)
    manifest = check(run, saved)
    assert saved.bytes_sent == saved.bytes
    assert all(entry.key.startswith(f"data/{saved.snapshot}/") for entry in manifest.files)


@pytest.mark.req(30)
def test_an_upload_that_expired_meanwhile_is_begun_anew(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    run = run_with(workers=1)
    store.fail("put_part", killed, after=4)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    for upload in list(store.inner.uploads("")):
        store.inner.abort(upload)
    saved = save(run, source, step=7)
    check(run, saved)
    assert saved.parts_sent == PARTS + 1


@pytest.mark.req(28)
def test_a_condemned_attempt_is_not_continued(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    run = run_with(workers=1)
    store.fail("put_part", killed, after=4)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    (attempt,) = (known[0] for key in _keys(store, "journals/") if (known := layout.journal_of_key(key)))
    store.put(layout.condemned_key(attempt), b"")
    saved = save(run, source, step=7)
    manifest = check(run, saved)
    assert all(entry.key.startswith(f"data/{saved.snapshot}/") for entry in manifest.files)
    assert not [key for key in _keys(store, layout.journal_prefix(attempt)) if "adopted-by" in key]


def _keys(store: Any, prefix: str) -> list[str]:
    return [found.key for found in store.inner.list(prefix)]


def test_what_an_earlier_attempt_sent_and_gc_took_meanwhile_is_not_committed(
    run: Run, store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    def kill(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("manifests/"):
            raise killed

    store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    seen: list[str] = []

    def collect(verb: str, key: str) -> None:
        if verb == "stat" and key.endswith("/model.bin"):
            seen.append(key)
            if len(seen) == 1:
                store.after = lambda *_: None
                store.inner.delete([key])

    store.after = collect
    with pytest.raises(ConflictError, match="deleted meanwhile; save again"):
        save(run, source, step=7)
    store.heal()
    assert run.catalog.latest() is None
    check(run, save(run, source, step=7))


def test_a_marker_is_put_before_an_attempt_is_continued(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException]
) -> None:
    """First the marker, then the look for gc's: so that one of both sees the other."""
    run = run_with(workers=1)
    store.fail("put_part", killed, after=4)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    save(run, source, step=7)
    calls = [key.rpartition("/")[0].rpartition("/")[2] + ":" + verb for verb, key in store.calls]
    marker = next(index for index, (verb, key) in enumerate(store.calls) if verb == "put" and "/adopted-by/" in key)
    look = next(index for index, (verb, key) in enumerate(store.calls) if verb == "stat" and key.endswith("condemned"))
    first = next(index for index, (verb, _) in enumerate(store.calls) if verb in {"parts", "put_part"})
    record = next(index for index, (verb, key) in enumerate(store.calls) if verb == "put" and key.endswith("/journal.json"))  # fmt: skip
    assert marker < look < first, calls
    assert record < first, calls


@pytest.mark.req(30)
def test_the_record_of_what_may_be_written_comes_first(run: Run, store: Any, source: Path) -> None:
    save(run, source, step=7)
    keys = [key for verb, key in store.calls if verb in {"put", "begin", "put_part", "copy"}]
    order = [key.split("/")[0] for key in keys]
    assert order[0] == "writers"
    assert order.index("journals") < order.index("data")
    assert order[-1] == "manifests"


def test_a_store_that_knows_no_hashes_is_sent_again_without_a_journal(
    run_with: Callable[..., Run], store: Any, source: Path, killed: type[BaseException], check: Check
) -> None:
    """Nothing is believed that cannot be proven."""

    class Silent(StoreWrapper):
        def vouches(self, hashes: Any, chunks: Any) -> bool:
            del hashes, chunks
            return False

    run = run_with(on=Silent(store), workers=1)
    store.fail("put_part", killed, after=4)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    journal(run, source).unlink()
    saved = save(run, source, step=7)
    check(run, saved)
    assert saved.parts_sent == PARTS + 2


@pytest.mark.parametrize("after", [1, 3, 6, 7])
def test_a_directory_vouches_for_what_it_holds(
    run_with: Callable[..., Run],
    store: Any,
    source: Path,
    tmp_path: Path,
    killed: type[BaseException],
    check: Check,
    after: int,
) -> None:
    """Without the journal a save to a plain directory is continued as on the clouds, part by part and file by file."""
    store = type(store)(LocalStore(tmp_path / "bucket"))
    run = run_with(on=store, workers=1)
    puts = [0]

    def die(verb: str, key: str) -> None:
        if verb == "put_part" or (verb == "put" and key.startswith("data/")):
            puts[0] += 1
            if puts[0] > after:
                raise killed

    store.before = die
    with pytest.raises(killed):
        save(run, source, step=7)
    journal(run, source).unlink()
    store.heal()
    saved = save(run, source, step=7)
    check(run, saved)
    sent = [key for verb, key in store.calls if verb == "put_part" or (verb == "put" and key.startswith("data/"))]
    assert len([key for key in sent if not key.endswith("nothing")]) == PARTS + 2 - after
    assert saved.bytes_sent + saved.bytes_reused == saved.bytes
