"""Where a restore lands: old or new, never a mixture, and nothing lost whenever it is killed."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from socket import AF_UNIX, socket

import pytest

from ckptsync.errors import ConfigError, DiskError, StoreError
from ckptsync.events import Event, Kind
from ckptsync.transfer import target as targets
from ckptsync.transfer.folders import check_space, disk_bytes, is_partial
from ckptsync.transfer.target import disk_errors, landing, put_in_place

NAME = "00000001-000000000007-abcdefgh"
OTHER = "00000001-000000000006-abcdefgh"


class KilledError(BaseException):
    """As SIGKILL."""


def never(old: Path, stood_at: Path) -> bool:
    del old, stood_at
    return False


def always(old: Path, stood_at: Path) -> bool:
    del old, stood_at
    return True


def restore(target: Path, *, name: str = NAME, content: str = "new", expendable: targets.Expendable = never) -> list[Path]:  # fmt: skip
    """Fill and swap, as a restore does."""
    with landing(target, name, expendable=expendable) as place:
        (place.tree / "sub").mkdir(exist_ok=True)
        (place.tree / "model").write_text(content)
        (place.tree / "sub" / "optim").write_text(content)
        return put_in_place(place, expendable=expendable)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to: an old tree stands there."""
    target = tmp_path / "parent" / "ckpt"
    target.mkdir(parents=True)
    (target / "model").write_text("old")
    return target


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch, target: Path) -> Path:
    """The target as a mount point: it cannot be replaced itself."""
    is_mount = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target or is_mount(path))
    (target / "lost+found").mkdir()
    return target


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_it_appears_whole_where_nothing_was(tmp_path: Path) -> None:
    assert restore(tmp_path / "a" / "b" / "ckpt") == []
    assert names(tmp_path / "a" / "b") == ["ckpt"]
    assert (tmp_path / "a" / "b" / "ckpt" / "sub" / "optim").read_text() == "new"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "ckpt").mkdir()
    assert restore(tmp_path / "ckpt") == []
    assert names(tmp_path) == ["ckpt"]


def test_what_stood_there_is_kept_beside_it(target: Path) -> None:
    assert restore(target) == [target.with_name("ckpt.before-restore-1")]
    assert restore(target, content="newer") == [target.with_name("ckpt.before-restore-2")]
    assert names(target.parent) == ["ckpt", "ckpt.before-restore-1", "ckpt.before-restore-2"]
    assert (target.with_name("ckpt.before-restore-1") / "model").read_text() == "old"
    assert (target / "model").read_text() == "newer"


def test_what_is_expendable_is_deleted(target: Path) -> None:
    asked: list[Path] = []

    def expendable(old: Path, stood_at: Path) -> bool:
        assert (old / "model").read_text() == "old"
        asked.append(stood_at)
        return True

    assert restore(target, expendable=expendable) == []
    assert asked == [target]
    assert names(target.parent) == ["ckpt"]


@pytest.mark.parametrize("what", ["pipe", "socket", "dangling", "loop"])
def test_what_is_no_checkpoint_is_not_replaced(target: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    place = target.with_name(what)
    if what == "pipe":
        os.mkfifo(place)
    elif what == "socket":
        monkeypatch.chdir(target.parent)  # the whole path may be longer than a socket's may be
        with socket(AF_UNIX) as server:
            server.bind(what)
    else:
        place.symlink_to("nowhere" if what == "dangling" else what)
    found = place.lstat()
    with pytest.raises(ConfigError, match=r"(that leads nowhere|neither a file nor a directory), and is not replaced"):
        restore(place, expendable=always)
    assert os.path.samestat(place.lstat(), found)
    assert names(target.parent) == sorted(["ckpt", what])


def test_the_root_of_the_file_system_is_no_target() -> None:
    with pytest.raises(ConfigError, match="root of the file system"):
        targets._check_replaceable(Path("/"), "directory")


def test_a_file_in_the_way_is_refused(target: Path) -> None:
    with pytest.raises(ConfigError, match=r"model is a file, and the snapshot is a directory"):
        restore(target / "model")
    assert (target / "model").read_text() == "old"


def test_where_no_folder_can_be_made_is_a_disk_error(target: Path) -> None:
    with pytest.raises(DiskError, match="cannot write"):
        restore(target / "model" / "below")


def test_a_reader_sees_the_old_or_the_new_never_neither(target: Path) -> None:
    seen: set[str] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                seen.add("nothing")
                continue
            try:
                with os.fdopen(os.open("model", os.O_RDONLY, dir_fd=descriptor)) as file:
                    seen.add(file.read())
            except FileNotFoundError:  # the old tree, while it is being deleted
                seen.add("old")
            finally:
                os.close(descriptor)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(20):
            restore(target, content=f"{number}", expendable=always)
    finally:
        stop.set()
        reader.join()
    assert seen <= {"old", *map(str, range(20))}


def test_without_the_systems_exchange_it_is_two_renames(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "_exchange", lambda *_: False)
    assert restore(target) == [target.with_name("ckpt.before-restore-1")]
    assert (target / "model").read_text() == "new"
    assert restore(target, content="newer", expendable=always) == []
    assert names(target.parent) == ["ckpt", "ckpt.before-restore-1"]


def test_an_exchange_the_filesystem_does_not_know_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one that fails otherwise is."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    with pytest.raises(FileNotFoundError):
        targets._exchange(one, other)
    other.mkdir()

    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            ctypes.set_errno(22)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    assert not targets._exchange(one, other)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert not targets._exchange(one, other)


# -- folders without the right to write -----------------------------------------------------------------------------------


def read_only(target: Path, *, name: str = NAME, content: str = "new") -> list[Path]:
    """Restore a tree whose folders are all read-only."""
    with landing(target, name, expendable=always) as place:
        (place.tree / "sub" / "deep").mkdir(parents=True)
        (place.tree / "sub" / "deep" / "file").write_text(content)
        for folder in ("sub/deep", "sub", *(["."] if place.is_moved_whole else [])):
            (place.tree / folder).chmod(0o555)
        return put_in_place(place, expendable=always)


def modes(folder: Path) -> list[int]:
    return [path.stat().st_mode & 0o777 for path in (folder, folder / "sub", folder / "sub" / "deep")]


@pytest.mark.usefixtures("plain_rights")
@pytest.mark.parametrize("exchange", [True, False])
def test_a_read_only_tree_appears_and_is_replaced(
    target: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(targets, "_exchange", lambda *_: False)
    for content in ("one", "two"):
        assert read_only(target, content=content) == []
        assert modes(target) == [0o555] * 3
        assert (target / "sub" / "deep" / "file").read_text() == content
        assert names(target.parent) == ["ckpt"]
    assert restore(target) == [kept := target.with_name("ckpt.before-restore-1")]
    assert modes(kept) == [0o555] * 3


@pytest.mark.usefixtures("plain_rights")
@pytest.mark.parametrize("exchange", [True, False])
def test_so_do_read_only_entries(fixed: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(targets, "_exchange", lambda *_: False)
    for content in ("one", "two"):
        assert read_only(fixed, content=content) == []
        assert modes(fixed)[1:] == [0o555] * 2
        assert (fixed / "sub" / "deep" / "file").read_text() == content
        assert names(fixed) == ["lost+found", "model", "sub"]


@pytest.mark.usefixtures("plain_rights")
@pytest.mark.parametrize("exchange", [True, False])
def test_killed_before_the_modes_the_next_run_sets_them(
    target: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    with monkeypatch.context() as patch:
        if not exchange:
            patch.setattr(targets, "_exchange", lambda *_: False)
        killed_at(patch, "_set_mode")
        with pytest.raises(KilledError):
            read_only(target)
    assert modes(target) == [0o755, 0o555, 0o555]
    with landing(target, NAME, expendable=always):
        assert modes(target) == [0o555] * 3
    with landing(target, OTHER, expendable=always):
        pass


@pytest.mark.usefixtures("plain_rights")
def test_an_exchange_that_fails_gives_the_old_tree_its_mode_back(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target.chmod(0o555)

    def fail(*_: object) -> bool:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(targets, "_exchange", fail)
    with pytest.raises(DiskError, match="Input/output error"):
        restore(target, expendable=always)
    assert target.stat().st_mode & 0o777 == 0o555
    assert (target / "model").read_text() == "old"


@pytest.mark.parametrize("exchange", [True, False])
def test_old_content_that_cannot_be_deleted_is_a_notice_and_in_nobodys_way(
    target: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    told: list[Event] = []

    def refuse(path: Path, **_: object) -> None:
        if path.name.endswith("-partial") or (path / "model").exists():
            raise PermissionError(1, "Operation not permitted")

    def again(content: str) -> list[Path]:
        with landing(target, NAME, expendable=always, observer=told.append) as place:
            (place.tree / "model").write_text(content)
            return put_in_place(place, expendable=always)

    with monkeypatch.context() as patch:
        if not exchange:
            patch.setattr(targets, "_exchange", lambda *_: False)
        patch.setattr(targets, "remove_tree", refuse)
        assert again("new") == [kept := target.with_name("ckpt.before-restore-1")]
    (notice,) = told
    assert notice.kind is Kind.NOTICE
    assert "could not be deleted (Operation not permitted)" in notice.message
    assert str(kept) in notice.message
    assert [path.read_text() for path in kept.rglob("model")] == ["old"]
    assert again("newer") == []
    assert names(target.parent) == ["ckpt", "ckpt.before-restore-1"]
    assert (target / "model").read_text() == "newer"


def test_what_a_killed_restore_cannot_delete_is_in_nobodys_way_either(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    with monkeypatch.context() as patch:
        killed_at(patch, "_retire")
        with pytest.raises(KilledError):
            restore(target, content="new")

    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(targets, "remove_tree", refuse)
        with landing(target, NAME, expendable=always, observer=told.append) as place:
            assert list(place.tree.iterdir()) == []
    assert [event.kind for event in told] == [Kind.NOTICE]
    assert (target.with_name("ckpt.before-restore-1") / "tree" / "model").read_text() == "old"


def test_what_cannot_be_looked_up_is_kept(target: Path) -> None:
    """The bucket may be out of reach by then; the target is as it should be."""

    def unknown(old: Path, stood_at: Path) -> bool:
        raise StoreError(f"{old} {stood_at}")

    assert restore(target, expendable=unknown) == [target.with_name("ckpt.before-restore-1")]
    assert (target / "model").read_text() == "new"


# -- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letter", ["x", "ü"])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path: Path, letter: str) -> None:
    long = letter * (255 // len(letter.encode()))
    target, other = tmp_path / long, tmp_path / (long[:-1] + "y")
    for place in (target, other):
        assert restore(place) == []
        (kept,) = restore(place, content="newer")
        assert (kept / "model").read_text() == "new"
        with landing(place, OTHER, expendable=never) as left:
            assert is_partial(left.holder.name)
        restore(place, content="newest", expendable=always)
        assert (place / "model").read_text() == "newest"
    assert len(names(tmp_path)) == 4  # two targets, and what was kept of each


def test_one_that_is_longer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="File name too long"):
        restore(tmp_path / ("x" * 256))


# -- a target that cannot be replaced -------------------------------------------------------------------------------------


def test_a_mount_point_has_its_entries_replaced(fixed: Path) -> None:
    (fixed / "notes").write_text("mine")
    assert restore(fixed) == [fixed / "model.before-restore-1"]
    assert names(fixed) == ["lost+found", "model", "model.before-restore-1", "notes", "sub"]
    assert (fixed / "model").read_text() == "new"
    assert (fixed / "notes").read_text() == "mine"
    assert names(fixed.parent) == ["ckpt"]


def test_so_has_one_whose_parent_is_not_ours(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != target.parent and access(path, mode))
    restore(target, expendable=always)
    assert names(target) == ["model", "sub"]
    assert names(target.parent) == ["ckpt"]


def test_so_has_the_current_directory(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the shell would stand in a folder that is gone."""
    monkeypatch.chdir(target)
    restore(target, expendable=always)
    assert names(Path()) == ["model", "sub"]


# -- kills ----------------------------------------------------------------------------------------------------------------


def killed_at(monkeypatch: pytest.MonkeyPatch, name: str, *, call: int = 1) -> None:
    """Let the `call`th call of a step end as SIGKILL would end it."""
    real: Callable[..., object] = getattr(targets, name)
    left = [call]

    def kill(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if not left[0]:
            raise KilledError
        return real(*args, **kwargs)

    monkeypatch.setattr(targets, name, kill)


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("step", ["_replace", "_exchange", "_retire", "_free_name", "sync_folder"])
def test_killed_anywhere_nothing_is_lost(
    target: Path, monkeypatch: pytest.MonkeyPatch, step: str, *, exchange: bool
) -> None:
    with monkeypatch.context() as patch:
        if not exchange and step == "_exchange":
            return
        if not exchange:
            patch.setattr(targets, "_exchange", lambda *_: False)
        killed_at(patch, step)
        with pytest.raises(KilledError):
            restore(target)
    restore(target)
    kept = [folder for folder in target.parent.iterdir() if folder.name.startswith("ckpt.before")]
    texts = sorted((folder / "model").read_text() for folder in kept)
    assert "old" in texts
    assert (target / "model").read_text() == "new"
    assert all(not name.endswith("-partial") for name in names(target.parent))


@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("step", ["_replace", "_retire"])
def test_killed_among_the_entries_nothing_is_lost(
    fixed: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int, *, exchange: bool
) -> None:
    (fixed / "sub").mkdir()
    (fixed / "sub" / "optim").write_text("old")
    with monkeypatch.context() as patch:
        if not exchange:
            patch.setattr(targets, "_exchange", lambda *_: False)
        killed_at(patch, step, call=call)
        with pytest.raises(KilledError):
            restore(fixed)
    restore(fixed)
    old = [path.read_text() for path in fixed.rglob("*") if path.is_file() and "before-restore" in str(path)]
    assert old.count("old") == 2
    assert (fixed / "model").read_text() == (fixed / "sub" / "optim").read_text() == "new"
    assert [name for name in names(fixed) if name.endswith("-partial")] == []


def test_killed_between_exchange_and_disposal_the_next_snapshots_restore_cleans_up(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        killed_at(patch, "_retire")
        with pytest.raises(KilledError):
            restore(target, name=OTHER, content="other")
    restore(target, expendable=lambda old, _: (old / "model").read_text() == "other")
    assert names(target.parent) == ["ckpt", "ckpt.before-restore-1"]
    assert (target.with_name("ckpt.before-restore-1") / "model").read_text() == "old"


def test_a_note_that_was_torn_means_that_nothing_was_swapped(target: Path) -> None:
    with landing(target, NAME, expendable=never) as place:
        (place.tree / "model").write_text("half")
        (place.holder / "swapping.json").write_text('{"tr')
    with landing(target, NAME, expendable=never) as place:
        assert (place.tree / "model").read_text() == "half"
        assert not (place.holder / "swapping.json").exists()
    assert (target / "model").read_text() == "old"


def test_the_note_is_durable_before_anything_is_swapped(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a swap without a note would look like a tree half filled, and be cleared away."""
    order: list[str] = []
    fsync, exchange = os.fsync, targets._exchange

    def synced(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def exchanged(one: Path, other: Path) -> bool:
        order.append("exchange")
        note = json.loads((one.parent / "swapping.json").read_text())
        assert note == {"tree": [one.stat().st_ino, 0o755]}
        return exchange(one, other)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(targets, "_exchange", exchanged)
    restore(target, expendable=always)
    before = order[: order.index("exchange")]
    assert "swapping.json" in before
    assert any(name.endswith("-partial") for name in before[before.index("swapping.json") :])


# -- others at work -------------------------------------------------------------------------------------------------------


def test_what_a_killed_restore_left_is_found_again(target: Path) -> None:
    with landing(target, NAME, expendable=never) as place:
        (place.tree / "model").write_text("half")
    with landing(target, NAME, expendable=never) as place:
        assert (place.tree / "model").read_text() == "half"


def test_what_restores_of_other_snapshots_left_is_removed(target: Path) -> None:
    with landing(target, OTHER, expendable=never) as place:
        (place.tree / "model").write_text("half")
    restore(target, expendable=always)
    assert names(target.parent) == ["ckpt"]


def test_unless_one_is_under_way(target: Path) -> None:
    with landing(target, OTHER, expendable=never) as other:
        restore(target, expendable=always)
        assert other.tree.is_dir()


@pytest.mark.parametrize("neighbour", ["ckpt.old", "ckpt.1", f"ckpt.{OTHER}", "ckpt2", "x*", "x[a]"])
def test_what_is_being_restored_to_a_neighbour_is_none_of_our_business(tmp_path: Path, neighbour: str) -> None:
    for one, other in ((neighbour, "ckpt"), ("ckpt", neighbour), ("xy", neighbour), ("xa", neighbour)):
        with landing(tmp_path / one, OTHER, expendable=never) as place:
            (place.tree / "model").write_text("half")
        restore(tmp_path / other, expendable=always)
        assert (place.tree / "model").read_text() == "half", (one, other)
        shutil.rmtree(place.holder)


def test_a_second_restore_of_the_same_waits_for_the_first(target: Path) -> None:
    began, finished = threading.Event(), list[list[Path]]()

    def second() -> None:
        began.set()
        finished.append(restore(target, content="second", expendable=always))

    thread = threading.Thread(target=second)
    with landing(target, NAME, expendable=always) as place:
        thread.start()
        began.wait(30)
        thread.join(0.05)
        assert thread.is_alive()
        (place.tree / "model").write_text("first")
        put_in_place(place, expendable=always)
        assert (target / "model").read_text() == "first"
    thread.join(30)
    assert (target / "model").read_text() == "second"
    assert names(target.parent) == ["ckpt"]


def test_a_holder_removed_while_it_is_being_opened_is_made_again(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other restore of the same finished between our two steps."""
    real, left = os.open, [1]

    def raced(path: Path, flags: int, mode: int = 0o777, **options: int) -> int:
        if str(path).endswith("-partial") and left[0]:
            left[0] -= 1
            Path(path).rmdir()
        return real(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", raced)
    restore(target, expendable=always)
    assert (target / "model").read_text() == "new"


# -- the disk -------------------------------------------------------------------------------------------------------------


def test_too_little_space_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    check_space(tmp_path, 0)
    check_space(tmp_path, -1)
    with pytest.raises(DiskError, match="bytes free and 9223372036854775807 are needed"):
        check_space(tmp_path, (1 << 63) - 1)


def test_bytes_on_the_disk_are_those_written_not_those_promised(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "link").symlink_to("/dev/zero")
    assert disk_bytes(tmp_path) < 1 << 20
    (tmp_path / "full").write_bytes(b"x" * 100_000)
    os.sync()
    assert 100_000 <= disk_bytes(tmp_path) < 1 << 20


def test_errors_of_the_disk_are_ours_and_ours_stay_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"cannot write .*: No space left on device"), disk_errors(tmp_path):
        raise OSError(28, "No space left on device")
    with pytest.raises(ConfigError, match="as it was"), disk_errors(tmp_path):
        raise ConfigError("as it was")
