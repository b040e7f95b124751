from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import IntegrityError, NotFoundError, StoreError
from ckptsync.store.base import Stat, Upload
from ckptsync.store.local import LocalStore

OWN = ".ckptsync-tmp"
OURS = "data/00000001-000000000007-abcdefgh/a"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def leftovers(root: Path) -> list[str]:
    """Files the store keeps for itself."""
    return sorted(str(path.relative_to(root)) for path in (root / OWN).rglob("*") if path.is_file())


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


# -- copies --------------------------------------------------------------------------------------------------------------


def test_a_copy_shares_the_bytes_and_is_young(store: LocalStore, root: Path) -> None:
    old = store.put(OURS, b"content")
    os.utime(root / OURS, ns=(0, 10**18))
    copied = store.copy(OURS, "b/c")
    assert (root / OURS).stat().st_ino == (root / "b" / "c").stat().st_ino
    assert copied.modified_s >= old.modified_s
    assert abs(copied.modified_s - time.time()) < 3600
    store.put(OURS, b"changed")
    assert store.read("b/c") == b"content"
    assert leftovers(root) == []


@pytest.mark.parametrize("theirs", ["a", "checkpoints/a", "data/a", f"more/{OURS}"])
def test_a_copy_of_somebody_elses_file_stays_when_that_is_written_to(
    store: LocalStore, root: Path, theirs: str
) -> None:
    store.put(theirs, b"content")
    store.copy(theirs, "b/c")
    with (root / theirs).open("r+b") as file:
        file.write(b"CONTENT")
    assert store.read("b/c") == b"content"


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_where_there_are_no_hard_links(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, *, in_kernel: bool
) -> None:
    content = os.urandom(3_000_000)
    store.put("a", content)
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", failing(errno.EXDEV))
    assert store.copy("a", "b").size == len(content)
    assert (root / "a").stat().st_ino != (root / "b").stat().st_ino
    assert store.read("b") == content
    upload = store.begin("c")
    store.finish(upload, [store.copy_part(upload, 1, "a", 5, 2_000_000)])
    assert store.read("c") == content[5:2_000_005]
    assert [name for name in leftovers(root) if "finished" not in name] == []


def test_copying_gives_up_when_the_disk_is_full(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"content")
    upload = store.begin("b")
    monkeypatch.setattr(os, "copy_file_range", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="disk full"):
        store.copy_part(upload, 1, "a", 0, 7)


def test_a_copy_onto_itself_changes_nothing(store: LocalStore, root: Path) -> None:
    store.put("a", b"content")
    assert store.copy("a", "a").size == 7
    assert store.read("a") == b"content"
    assert leftovers(root) == []


# -- digests --------------------------------------------------------------------------------------------------------------


def test_digests_cost_nothing_until_somebody_asks(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = store.begin("b")
    sent = store.put_part(upload, 1, b"part")
    store.put("a", b"content")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EIO))
        held, found = store.parts(upload)[1], store.stat("a")
        assert (list(held.hashes), len(found.hashes)) == (["md5"], 1)
    assert store.vouches(held.hashes, [b"part"])
    assert store.vouches(found.hashes, [b"con", b"tent"])
    assert not store.vouches(found.hashes, [b"con", b"Tent"])
    assert (held.size, held.tag) == (sent.size, sent.tag)


def test_what_was_replaced_meanwhile_is_not_vouched_for(store: LocalStore, root: Path) -> None:
    upload = store.begin("b")
    store.put_part(upload, 1, b"part")
    held = store.parts(upload)[1]
    store.put_part(upload, 1, b"PART")
    assert not store.vouches(held.hashes, [b"PART"])
    assert not store.vouches(held.hashes, [b"part"])
    store.put("a", b"content")
    found = store.stat("a")
    (root / "a").unlink()
    assert "md5" not in found.hashes
    assert not store.vouches(found.hashes, [b"content"])


# -- uploads -------------------------------------------------------------------------------------------------------------

FINISH = """
import os, sys
from pathlib import Path
from ckptsync.store.local import disk
from ckptsync.store.local import store as local
from ckptsync.store.base import Stat, Upload

root, name, stage = sys.argv[1:]
store = local.LocalStore(Path(root))
upload = Upload(key="folder/object", id=name)
calls = 0

def die_at(place, attribute, when):
    real = getattr(place, attribute)
    def step(*arguments, **options):
        global calls
        calls += 1
        if calls == when:
            os._exit(9)
        return real(*arguments, **options)
    setattr(place, attribute, step)

attribute, _, when = stage.partition(":")
place = {"disk": disk, "os": os, "shutil": local.shutil, "Path": Path}[attribute.partition(".")[0]]
die_at(place, attribute.partition(".")[2], int(when))
store.finish(upload, store.parts(upload).values())
"""


@pytest.mark.parametrize(
    "stage",
    [
        "disk.copy_range:2",
        "os.fsync:1",
        "os.fsync:2",
        "disk.publish:1",
        "Path.write_bytes:1",
        "disk.publish:2",
        "disk.sync_folder:3",
        "Path.rename:1",
        "shutil.rmtree:1",
    ],
)
def test_finish_may_be_killed_anywhere(store: LocalStore, root: Path, stage: str) -> None:
    upload = store.begin("folder/object")
    sent = [store.put_part(upload, number, bytes([number]) * 1000) for number in (1, 2, 3)]
    killed = subprocess.run([sys.executable, "-c", FINISH, str(root), upload.id, stage], check=False, cwd=Path.cwd())
    assert killed.returncode == 9
    for found in store.list(""):
        assert (found.key, found.size) == ("folder/object", 3000)
    store.finish(upload, sent)
    assert store.read("folder/object") == b"\1" * 1000 + b"\2" * 1000 + b"\3" * 1000
    assert list(store.uploads("")) == []
    assert [found.key for found in store.list("")] == ["folder/object"]


def test_finish_by_two_at_once_makes_one_object(store: LocalStore) -> None:
    for turn in range(10):
        upload = store.begin(f"{turn}")
        sent = [store.put_part(upload, number, bytes([number]) * 5000) for number in (1, 2)]
        with ThreadPoolExecutor(2) as threads:
            sizes = [found.size for found in threads.map(lambda _: store.finish(upload, sent), range(2))]  # noqa: B023
        assert sizes == [10_000, 10_000]


class Paused(LocalStore):
    """A process that is stopped while it finishes an upload, and wakes up behind what another did meanwhile."""

    def __init__(self, root: Path, step: str, meanwhile: Callable[[], object]) -> None:
        super().__init__(root)
        self.step, self.meanwhile, self.temporaries = step, meanwhile, 0

    def pause(self, step: str) -> None:
        if step == self.step:
            self.step = ""
            self.meanwhile()

    def _decide(self, *arguments: Any) -> Any:
        self.pause("before it has decided")
        decided = super()._decide(*arguments)
        self.pause("before it has made a receipt")
        return decided

    def _temporary(self) -> Any:
        self.temporaries += 1
        if self.temporaries == 2:
            self.pause("before it proposes")
        return super()._temporary()

    def _publish(self, *arguments: Any, **options: Any) -> None:
        self.pause("before the object appears")
        super()._publish(*arguments, **options)

    def _drop(self, folder: Path) -> None:
        self.pause("before the upload is gone")
        super()._drop(folder)


PAUSES = [
    "before it has decided",
    "before it proposes",
    "before it has made a receipt",
    "before the object appears",
    "before the upload is gone",
]


@pytest.mark.req(26)
@pytest.mark.parametrize("pause", PAUSES)
def test_a_zombie_in_the_middle_of_finish_replaces_nothing(store: LocalStore, pause: str) -> None:
    upload = store.begin("object")
    old = [store.put_part(upload, number, bytes([number]) * 1000) for number in (1, 2)]
    made: list[Stat] = []

    def continue_it() -> None:
        """As a successor does: other content for a part, and once more from the beginning when the upload is taken."""
        new = [old[0], store.put_part(upload, 2, b"new" * 500)]
        try:
            made.append(store.finish(upload, new))
        except NotFoundError:
            store.abort(upload)
            made.append(store.put("object", b"\1" * 1000 + b"new" * 500))

    zombie = Paused(
        store.root, pause, continue_it if pause != PAUSES[-1] else lambda: made.append(store.stat("object"))
    )
    with suppress(NotFoundError, IntegrityError):
        zombie.finish(upload, old)
    assert made
    assert store.stat("object").tag == made[0].tag
    assert not list(store.uploads(""))


@pytest.mark.req(26)
@pytest.mark.parametrize("pause", PAUSES)
def test_two_who_mean_the_same_parts_make_the_same_object(store: LocalStore, pause: str) -> None:
    upload = store.begin("object")
    sent = [store.put_part(upload, number, bytes([number]) * 1000) for number in (1, 2)]
    made: list[Stat] = []
    found = Paused(store.root, pause, lambda: made.append(store.finish(upload, sent))).finish(upload, sent)
    assert found.tag == made[0].tag == store.stat("object").tag
    assert store.finish(upload, sent).tag == found.tag
    assert store.read("object") == b"\1" * 1000 + b"\2" * 1000


def test_an_upload_that_was_finished_with_other_parts_is_gone(store: LocalStore) -> None:
    upload = store.begin("object")
    sent = store.put_part(upload, 1, b"old")
    other = store.put_part(upload, 1, b"new")
    store.finish(upload, [other])
    with pytest.raises(NotFoundError):
        store.finish(upload, [sent])
    assert store.read("object") == b"new"


def test_a_late_part_of_a_zombie_is_noticed(store: LocalStore) -> None:
    upload = store.begin("a")
    sent = [store.put_part(upload, 1, b"mine")]
    LocalStore(store.root).put_part(upload, 1, b"late")
    with pytest.raises(IntegrityError):
        store.finish(upload, sent)


@pytest.mark.parametrize("name", ["", "..", "../uploads", "0" * 31, "g" * 32, "0" * 32])
def test_an_upload_id_leads_nowhere_else(store: LocalStore, name: str) -> None:
    store.begin("a")
    upload = Upload(key="a", id=name)
    for ask in (
        lambda: store.parts(upload),
        lambda: store.put_part(upload, 1, b""),
        lambda: store.finish(upload, []),
    ):
        with pytest.raises(NotFoundError):
            ask()
    store.abort(upload)
    assert len(list(store.uploads(""))) == 1


def test_uploads_with_unreadable_keys_are_none(store: LocalStore, root: Path) -> None:
    upload = store.begin("a")
    (root / OWN / "uploads" / "stray").write_bytes(b"")
    (root / OWN / "uploads" / ("0" * 32)).mkdir()
    broken = root / OWN / "uploads" / ("1" * 32)
    broken.mkdir()
    for content in (b"", b"{}", b"\xff", b"[1]"):
        (broken / "key").write_bytes(content)
        assert list(store.uploads("")) == [upload]
        with pytest.raises(NotFoundError):
            store.parts(Upload(key="a", id="1" * 32))


def test_what_killed_processes_left_is_removed_a_day_later(store: LocalStore, root: Path) -> None:
    upload = store.begin("a")
    own, old_s = root / OWN, time.time() - 90_000
    (own / "finished").mkdir()
    for name in ("old", "young", "finished/old", "finished/young"):
        (own / name).write_bytes(b"")
        if name.endswith("old"):
            os.utime(own / name, (old_s, old_s))
    (own / "dropped").mkdir()
    (own / "dropped" / "00001").write_bytes(b"")
    os.utime(own / "dropped", (old_s, old_s))
    for path in (own / "uploads", own / "uploads" / upload.id, own / "finished"):
        os.utime(path, (old_s, old_s))
    LocalStore(root).put("b", b"")
    assert leftovers(root) == sorted([f"{OWN}/young", f"{OWN}/finished/young", f"{OWN}/uploads/{upload.id}/key"])
