"""Files that are packed: a killed save is continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.packed import PARTS, model, write_weights

from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.store.base import PartTag, StoreWrapper, Upload
from ckptsync.transfer.journal import journal_path
from ckptsync.verbs.save import save


@pytest.fixture
def source(source: Path) -> Path:
    """The large file holds weights, each part others."""
    write_weights(source / "model.bin")
    return source


def journal(run: Run, source: Path) -> Path:
    return journal_path(run.config.state_path(), run.url, source)


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize("after", [0, 1, 3, 5, 6])
def test_a_killed_upload_is_continued_part_by_part(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    after: int,
    comes_back: Callable[[Run], None],
    *,
    lost: bool,
) -> None:
    run = packing(workers=1)
    store.fail(*(("finish", killed) if after == PARTS else ("put_part", killed)), after=0 if after == PARTS else after)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    assert store.count()["put_part"] == PARTS - after
    assert store.count()["begin"] == 0
    assert model(run, saved).packing
    assert model(run, saved).key.startswith("data/00000001-")
    comes_back(run)


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize("after", [3, PARTS])
def test_what_another_zstd_packed_is_kept_by_its_digest_or_sent_again(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    comes_back: Callable[[Run], None],
    *,
    lost: bool,
) -> None:
    """Another level stands for another version: both make other bytes of the same part."""
    run = packing(workers=1)
    store.fail(*(("finish", killed) if after == PARTS else ("put_part", killed)), after=0 if after == PARTS else after)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    monkeypatch.setattr("ckptsync.transfer.packing.LEVEL", 9)
    saved = save(run, source, step=7)
    alike = 1 if after == PARTS else 0  # the last part, of 7 bytes, is the same at any level
    assert store.count()["put_part"] == PARTS - (alike if lost else after)
    assert model(run, saved).packing
    comes_back(run)
    store.heal()
    assert save(run, source, step=8).bytes_sent == 0  # copied, whatever packed it


@pytest.mark.parametrize("verb", ["finish", "put"])
def test_a_journal_spares_packing_what_is_there(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    run = packing(workers=1)

    def kill(called: str, key: str) -> None:
        if called == verb and (verb == "finish" or key.startswith("manifests/")):
            raise killed

    store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    monkeypatch.setattr("ckptsync.transfer.packing.pack", None)
    save(run, source, step=7)
    assert "put_part" not in store.count()


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_a_file_that_is_empty_when_its_upload_is_continued(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
    *,
    lost: bool,
) -> None:
    run = packing(workers=1)
    store.fail("put_part", killed, after=3)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    (source / "model.bin").write_bytes(b"")
    save(run, source, step=7)
    comes_back(run)


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize("verb", ["finish", "put"])
def test_a_file_that_was_finished_is_not_sent_again(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
    verb: str,
    *,
    lost: bool,
) -> None:
    run = packing(workers=1)

    def kill(called: str, key: str) -> None:
        if called == verb and (verb == "finish" or key.startswith("manifests/")):
            raise killed

    if verb == "finish":
        store.after = kill  # the answer is lost
    else:
        store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    assert "put_part" not in store.count()
    assert model(run, saved).key.startswith("data/00000001-")
    comes_back(run)


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize(("first", "then"), [("zstd", "none"), ("none", "zstd")])
@pytest.mark.parametrize("verb", ["put_part", "finish", "manifest"])
def test_the_option_may_change_between_a_kill_and_the_next_try(
    run_with: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
    first: str,
    then: str,
    verb: str,
    *,
    lost: bool,
) -> None:
    run = run_with(compress=first, workers=1)
    left = [3]

    def kill(called: str, key: str) -> None:
        if called == verb == "put_part":
            left[0] -= 1
            if left[0] < 0:
                raise killed
        elif called == verb or (verb == "manifest" and called == "put" and key.startswith("manifests/")):
            raise killed

    store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    run = run_with(compress=then, workers=1)
    saved = save(run, source, step=7)
    if then == "none":
        assert store.read(model(run, saved).key) == (source / "model.bin").read_bytes()
    comes_back(run)


class Strict(StoreWrapper):
    """Takes parts of half a MiB or more, but for the last, as S3 takes 5 MiB."""

    def finish(self, upload: Upload, parts: Any) -> Any:
        parts = list(parts)
        assert all(part.size >= self.traits.min_part_bytes for part in parts[:-1])
        return super().finish(upload, parts)

    def put_part(self, upload: Upload, number: int, data: Any) -> PartTag:
        assert len(data) <= self.traits.max_part_bytes
        return super().put_part(upload, number, data)


@pytest.fixture
def strict(store: Any, limited: Callable[..., StoreWrapper]) -> Strict:
    wrapper = Strict(store)
    wrapper.traits = limited(min_part_bytes=MIB // 2).traits
    return wrapper


def test_parts_that_shrink_too_far_are_filled_up(
    packing: Callable[..., Run], strict: Strict, source: Path, comes_back: Callable[[Run], None]
) -> None:
    (source / "model.bin").write_bytes(bytes(3 * MIB))
    run = packing(on=strict)
    packed = model(run, save(run, source, step=7)).packing
    assert packed is not None
    assert [packed.span(number)[1] for number in (1, 2)] == [MIB // 2] * 2
    assert packed.span(3)[1] < 1000  # the last one may be short
    comes_back(run)
    with (source / "model.bin").open("ab") as file:
        file.write(bytes(2 * MIB) + b"x")
    save(run, source, step=8)  # what was last may be short no more
    comes_back(run)


def test_parts_that_shrink_too_far_are_filled_up_when_a_killed_upload_is_continued(
    packing: Callable[..., Run],
    strict: Strict,
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
) -> None:
    (source / "model.bin").write_bytes(bytes(3 * MIB))
    run = packing(on=strict, workers=1)
    store.fail("finish", killed)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    with (source / "model.bin").open("ab") as file:
        file.write(bytes(MIB) + b"x")
    save(run, source, step=7)
    comes_back(run)
