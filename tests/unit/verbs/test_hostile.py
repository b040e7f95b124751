"""A stranger who may write to the bucket: what a manifest, a journal, a claim or an alias of theirs cannot do."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ckptsync import names
from ckptsync.errors import CkptsyncError, ConfigError, DiskError, IntegrityError, ManifestError, NoSnapshotError
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FORMAT, VERSION
from ckptsync.store.base import Stat, StoreWrapper
from ckptsync.verbs.attempts import read_attempts
from ckptsync.verbs.gc import collect
from ckptsync.verbs.listing import rows
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

EVIL = SnapshotId(9, 9, "stranger")
X = part_digest(b"x")

Forge = Callable[..., None]


def file(path: str, **changed: Any) -> dict[str, Any]:
    """An entry of one byte, whose object is there."""
    return {"type": "file", "path": path, "size": 1, "key": "stuff/x", "part_bytes": 1, "parts": [X]} | changed


def link(path: str, target: str) -> dict[str, Any]:
    return {"type": "symlink", "path": path, "target": target}


def folder(path: str, mode: int = 0o755) -> dict[str, Any]:
    return {"type": "directory", "path": path, "mode": mode}


@pytest.fixture
def forge(run: Run) -> Forge:
    """Commit a manifest with right digests and whatever members."""
    run.store.put("stuff/x", b"x")

    def make(*entries: Mapping[str, Any], snapshot: SnapshotId = EVIL, **changed: Any) -> None:
        facts = {"snapshot": str(snapshot), "commit_id": "", "created": "", "writer": {"host": "", "pid": 0}}
        body = msgspec.json.encode(facts | {"entries": entries} | changed)
        envelope = {"blake3": part_digest(body), "format": FORMAT, "manifest": msgspec.Raw(body), "version": VERSION}
        run.store.put(layout.manifest_key(snapshot), msgspec.json.encode(envelope))

    return make


def everything(below: Path) -> set[str]:
    return {str(path.relative_to(below)) for path in below.rglob("*")}


@pytest.mark.parametrize(
    "entries",
    [
        [file("../x")],
        [file("/etc/x")],
        [file("a/../../x")],
        [file("a//x")],
        [file("./x")],
        [file("")],
        [file("a\0b")],
        [file("a" * 256)],
        [file("/".join(["a" * 100] * 10))],
        [file("a" * 10_000)],
        [link("l", "/etc"), file("l/x")],
        [link("l", "..")],
        [link("l", "a/../..")],
        [link("l", "x\0y")],
        [link("l", "x" * 5000)],
        [link("l", "d"), folder("d"), file("l/x")],
        [file("d"), file("d/x")],
        [file("d"), folder("d")],
        [file("d"), folder("d/e")],
        [link("d", "e"), folder("d")],
        [file("x"), file("x")],
        [file("x", key="../other-run/data/x")],
        [file("x", key="/etc/passwd")],
        [file("x", key="s3://other/x/..")],
        [file("x", size=-1)],
        [file("x", size=1 << 63, part_bytes=1 << 63)],
        [file("x", size=10**40, part_bytes=10**40)],
        [file("x", size=1 << 62, part_bytes=1)],
        [file("x", part_bytes=0)],
        [file("x", parts=[X] * 1000)],
        [file("x", parts=["x"])],
        [file("x", parts=[X.upper()])],
        [file("x", mtime_ns=1 << 70)],
        [file("x", mode=0o104755)],
        [file("x", surprise=1)],
        [folder("."), file("x")],
    ],
)
def test_a_manifest_that_makes_no_tree_below_the_target_is_never_acted_on(
    run: Run, forge: Forge, target: Path, tmp_path: Path, entries: list[dict[str, Any]]
) -> None:
    forge(*entries)
    before = everything(tmp_path)
    for use in (restore, lambda run, _: verify(run)):
        with pytest.raises(IntegrityError):
            use(run, target)
    with pytest.raises(ManifestError):
        restore(run, target, snapshot=str(EVIL))
    assert everything(tmp_path) == before
    assert [row.state for row in rows(run)] == ["quarantined"]


@pytest.mark.parametrize("number", ["1e400", "1" * 5000, "-0", "1.5", "NaN", "[" * 5000, '"' + "9" * 5000 + '"'])
@pytest.mark.parametrize("member", ["size", "mode", "mtime_ns", "part_bytes"])
def test_numbers_that_are_none(run: Run, forge: Forge, target: Path, member: str, number: str) -> None:
    body = msgspec.json.encode(
        {
            "snapshot": str(EVIL),
            "commit_id": "",
            "created": "",
            "writer": {"host": "", "pid": 0},
            "entries": [file("x")],
        }
    )
    text = f'"{member}":'.encode()
    if text not in body:
        body = body.replace(b'"type"', text + b'0,"type"')
    head, _, rest = body.partition(text)
    body = head + text + number.encode() + rest.lstrip(b"0123456789")
    forge()
    envelope = b'{"blake3":"%s","format":"%s","manifest":%s,"version":%d}' % (
        part_digest(body).encode(),
        FORMAT.encode(),
        body,
        VERSION,
    )
    run.store.put(layout.manifest_key(EVIL), envelope)
    if number == "-0" and member in {"mode", "mtime_ns"}:
        assert restore(run, target).files == 1
        return
    with pytest.raises(IntegrityError):
        restore(run, target)


def test_names_that_only_look_dangerous_come_back(run: Run, forge: Forge, target: Path) -> None:
    """Devices, case, spaces, our own folder names: here they are plain names."""
    plain = [
        "CON",
        "dev/null",
        "a",
        "A",
        "ä",
        "~/x",
        "-rf",
        "$(id)",
        "a b",
        "...",
        "..a",
        "\x1b[2J",
        "\n",
        "a:b",
        "\\..\\x",
    ]
    own = [".x.ckptsync-partial", "tree", "swapping.json", "x.old", f".restore.{EVIL}.ckptsync-partial"]
    forge(*[file(path) for path in plain + own])
    restored = restore(run, target)
    assert restored.files == len(plain + own)
    assert everything(target) == {*plain, *own, "dev", "~"}
    assert all((target / path).read_bytes() == b"x" for path in plain + own)


def test_a_name_of_our_own_folder_in_a_target_that_must_stay(
    run: Run, forge: Forge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder we fill stands inside the target there: an entry of its name must not end it half-way."""
    target.mkdir(parents=True)
    (target / "precious").write_bytes(b"p")
    monkeypatch.chdir(target)
    forge(file("x"), file(f".restore.{EVIL}.ckptsync-partial"))
    with pytest.raises(CkptsyncError):
        restore(run, target)
    assert (target / "precious").exists() or any("precious" in str(path) for path in target.parent.rglob("*"))
    assert not (target / "x").exists() or (target / "x").read_bytes() == b"x"


def test_links_cannot_be_written_through(run: Run, forge: Forge, target: Path, tmp_path: Path) -> None:
    """What an earlier, killed restore of other content left is no way out either."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    forge(file("x"))
    holder = target.parent / f".{target.name}.{EVIL}.ckptsync-partial"
    (holder / "tree").mkdir(parents=True)
    (holder / "tree" / "x").symlink_to(outside)
    with pytest.raises(DiskError):
        restore(run, target)
    assert outside.read_bytes() == b"untouched"


def test_where_case_does_not_count_two_names_that_are_one_are_refused(
    run: Run, forge: Forge, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge(file("weights"), file("Weights"))
    exists = Path.exists

    def folding(path: Path, **given: Any) -> bool:
        return exists(path.with_name("CASE") if path.name == "case" else path, **given)

    monkeypatch.setattr(Path, "exists", folding)
    with pytest.raises(DiskError, match="are one name"):
        restore(run, target)
    assert not target.exists()


def test_modes_give_nobody_more_than_rights_to_read_write_and_enter(run: Run, forge: Forge, target: Path) -> None:
    forge(file("x", mode=0o7777), folder("d", 0o7777), mode=0o7777)
    restore(run, target)
    assert [(target / path).stat().st_mode & 0o7777 for path in (".", "x", "d")] == [0o777] * 3


# -- memory --------------------------------------------------------------------------------------------------------------


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_part_of_a_tebibyte_costs_a_buffer(run: Run, forge: Forge, target: Path) -> None:
    """The manifest says one part of 1 TiB; the object is small or large, and memory stays that of our options."""
    content = os.urandom(20 * MIB)
    run.store.put("stuff/large", content)
    large = file("large", key="stuff/large", size=len(content), part_bytes=1 << 40, parts=[part_digest(content)])
    forge(large)
    assert peak_bytes(lambda: restore(run, target)) < 12 * MIB
    assert (target / "large").read_bytes() == content
    assert peak_bytes(lambda: verify(run)) < 12 * MIB
    assert peak_bytes(lambda: restore(run, target)) < 12 * MIB  # compares what is there
    forge(large | {"size": 1 << 40})
    assert peak_bytes(lambda: verify(run)) < 12 * MIB
    assert verify(run).bad
    with pytest.raises((DiskError, IntegrityError)):
        restore(run, target)


class Swollen(StoreWrapper):
    """Says of some objects that they are larger than any memory."""

    size = 1 << 42

    def stat(self, key: str) -> Stat:
        found = super().stat(key)
        return _resized(found, self.size)

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Any:
        return (_resized(found, self.size) for found in super().list(prefix, limit=limit, after=after))

    def get(self, key: str, into: memoryview, **given: Any) -> int:
        super().get(key, into, **given)
        return len(into)


def _resized(found: Stat, size: int) -> Stat:
    return Stat(key=found.key, size=size, tag=found.tag, modified_s=found.modified_s)


def test_records_larger_than_their_limit_are_refused_before_memory_is_taken(
    run_with: Callable[..., Run], run: Run, forge: Forge, target: Path, store: Any
) -> None:
    forge(file("x"))
    run.catalog.claims.claim()
    names.promote(run.catalog, EVIL, "best")
    store.put(layout.journal_key(EVIL), b"{}")
    swollen = run_with(on=Swollen(store))

    def all_refused() -> None:
        with pytest.raises(IntegrityError):
            restore(swollen, target)
        with pytest.raises(ManifestError):
            swollen.catalog.get(EVIL)
        assert swollen.catalog.latest() is None
        assert swollen.catalog.claims.writer(1) is None
        with pytest.raises(ManifestError):
            names.read_alias(swollen.catalog, "best")
        with pytest.raises(ManifestError):
            read_attempts(swollen.store, EVIL)

    assert peak_bytes(all_refused) < 12 * MIB


def test_a_save_cuts_no_larger_than_we_may_hold(
    run_with: Callable[..., Run], source: Path, forge: Forge, store: Any
) -> None:
    """The newest snapshot is a stranger's, and cuts our file into one part that is larger than all our memory."""
    run = run_with(part_bytes=MIB, workers=2)
    content = (source / "model.bin").read_bytes()
    store.put("stuff/model", content)
    forge(file("model.bin", key="stuff/model", size=len(content), part_bytes=1 << 30, parts=[part_digest(content)]))
    run.catalog.store.put(layout.writer_key(EVIL.epoch), b"{}")
    saved = save(run, source, step=10)
    manifest = run.catalog.get(layout.parse_snapshot_id(saved.snapshot))  # type: ignore[arg-type]
    assert {entry.part_bytes for entry in manifest.files if entry.size > MIB} == {MIB}


# -- other records -------------------------------------------------------------------------------------------------------


def test_a_strangers_alias_and_claim_do_no_more_than_lie(run: Run, forge: Forge, store: Any) -> None:
    forge(file("x"))
    names.promote(run.catalog, EVIL, "best")
    for bad in (
        {"name": "other", "snapshot": str(EVIL), "version": 1, "created": ""},
        {"name": "best", "snapshot": str(EVIL), "version": 7, "created": ""},
        {"name": "best", "snapshot": str(EVIL), "version": 10**30, "created": ""},
    ):
        store.put(layout.alias_key("best", 1), msgspec.json.encode(bad))
        with pytest.raises(ManifestError, match="damaged"):
            names.find(run.catalog, "best")
    lie = {"name": "best", "snapshot": "../../etc", "version": 1, "created": ""}
    store.put(layout.alias_key("best", 1), msgspec.json.encode(lie))
    with pytest.raises(NoSnapshotError):
        names.find(run.catalog, "best")
    last = layout.MAX_VERSION
    spent = {"name": "best", "snapshot": "x", "version": last, "created": ""}
    store.put(layout.alias_key("best", last), msgspec.json.encode(spent))
    with pytest.raises(ConfigError, match="no versions left"):
        names.promote(run.catalog, EVIL, "best")
    store.put(layout.writer_key(layout.MAX_EPOCH), b"{}")
    keys = {found.key for found in store.list("")}
    with pytest.raises(ConfigError, match="no epochs left"):
        run.catalog.claims.claim()
    assert {found.key for found in store.list("")} == keys


def test_a_strangers_manifest_makes_gc_delete_nothing_of_others(
    run: Run, source: Path, forge: Forge, store: Any
) -> None:
    """It names another snapshot's data, its manifest, and foreign objects as its own files."""
    saved = save(run, source, step=7)
    good = layout.parse_snapshot_id(saved.snapshot)
    assert good is not None
    others = [found.key for found in store.list("") if found.key.startswith((layout.DATA, layout.MANIFESTS, "stuff"))]
    old = SnapshotId(1, 1, "stranger")
    forge(*[file(f"f{number}", key=key) for number, key in enumerate(others)], snapshot=old)
    from ckptsync.policy import LatestN  # noqa: PLC0415

    collected = collect(run, LatestN(1), grace_s=0, dry_run=False)
    assert str(old) in collected.removed
    assert not verify(run, saved.snapshot).bad
    assert {found.key for found in store.list("")} >= set(others)
