"""What `adopt` commits, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import ConfigError, FencedError, SourceChangedError
from ckptsync.options import MIB, Config
from ckptsync.policy import LatestN
from ckptsync.run import open_run, run_on
from ckptsync.snapshot import layout
from ckptsync.store.memory import MemoryStore
from ckptsync.verbs.adopt import adopt
from ckptsync.verbs.gc import collect
from ckptsync.verbs.remove import remove
from ckptsync.verbs.verify import verify

BIG = os.urandom(2 * MIB + 5)
OLD = {"old/ckpt/model.pt": BIG, "old/ckpt/opt/state": b"state", "old/ckpt/empty": b"", "old/ckpt2/other": b"x"}


@pytest.fixture
def there(run: Any) -> dict[str, bytes]:
    for key, content in OLD.items():
        run.store.put(key, content)
    return OLD


@pytest.mark.usefixtures("there")
class TestAdopted:
    """A folder of objects becomes a snapshot."""

    @pytest.mark.req(14)
    def test_it_is_a_snapshot_like_any_other_and_nothing_was_copied(self, run: Any, store: Any) -> None:
        saved = adopt(run, "old/ckpt", step=40, metrics={"loss": 0.5}, meta={"from": "torch"})
        manifest = run.catalog.latest()
        assert saved.snapshot == manifest.snapshot
        assert (saved.step, saved.epoch, saved.files, saved.bytes) == (40, 1, 3, len(BIG) + 5)
        assert (saved.bytes_sent, saved.bytes_reused, saved.committed) == (0, len(BIG) + 5, True)
        assert {file.path: file.key for file in manifest.files} == {
            "empty": "old/ckpt/empty",
            "model.pt": "old/ckpt/model.pt",
            "opt/state": "old/ckpt/opt/state",
        }
        assert (manifest.metrics, manifest.meta, manifest.kind) == ({"loss": 0.5}, {"from": "torch"}, "directory")
        assert not {"copy", "copy_part", "begin"} & store.count().keys()
        found = verify(run)
        assert (found.bad, found.parts_checked) == ((), 4)

    def test_every_object_is_read_once(self, run: Any, store: Any) -> None:
        store.heal()
        adopt(run, "old/ckpt", step=40)
        assert sum(verb == "get" and key.startswith("old/") for verb, key in store.calls) == 4

    def test_it_is_verified_against_later_damage(self, run: Any) -> None:
        adopt(run, "old/ckpt", step=40)
        run.store.put("old/ckpt/opt/state", b"Xtate")
        assert [bad.path for bad in verify(run).bad] == ["opt/state"]

    @pytest.mark.parametrize("prefix", ["old/ckpt", "old/ckpt/", "/old/ckpt", "memory://runs/a/old/ckpt/"])
    def test_ways_to_write_the_prefix(self, prefix: str, clock: Any) -> None:
        store = MemoryStore(clock=clock)
        store.url = "memory://runs/a"
        run = run_on(store, Config(), clock=clock)
        store.put("old/ckpt/w", b"1")
        if prefix.startswith("/"):
            with pytest.raises(ConfigError, match="outside"):
                adopt(run, prefix, step=1)
        else:
            assert adopt(run, prefix, step=1).files == 1

    def test_a_single_object(self, run: Any) -> None:
        adopt(run, "old/ckpt/model.pt", step=40)
        manifest = run.catalog.latest()
        assert (manifest.kind, [file.path for file in manifest.files]) == ("file", ["model.pt"])

    @pytest.mark.req(14)
    def test_removing_it_leaves_the_objects(self, run: Any, make: Any) -> None:
        adopt(run, "old/ckpt", step=40)
        found = remove(run, "40")
        assert (found.objects, found.bytes) == (0, 0)
        assert make.left() == sorted(OLD)

    def test_retention_leaves_the_objects_and_they_are_foreign_only_after(
        self, run: Any, make: Any, clock: Any
    ) -> None:
        adopt(run, "old/ckpt", step=40)
        assert collect(run, None, grace_s=0, dry_run=False).foreign == ("old/ckpt2/other",)
        make.snapshot(41, {})
        clock.advance(1000)
        found = collect(run, LatestN(1), grace_s=0, dry_run=False)
        assert (len(found.removed), found.objects_deleted) == (1, 0)
        assert set(OLD) <= set(make.there())
        assert collect(run, None, grace_s=0, dry_run=False).foreign == tuple(sorted(OLD))

    @pytest.mark.req(11)
    def test_an_object_replaced_while_it_is_read(self, run: Any, make: Any, store: Any) -> None:
        def replace(verb: str, key: str) -> None:
            if verb == "get" and key == "old/ckpt/model.pt":
                store.inner.put(key, BIG[::-1])

        store.after = replace
        with pytest.raises(SourceChangedError, match="adopt it when it is at rest"):
            adopt(run, "old/ckpt", step=40)
        assert make.left() == sorted(OLD)

    @pytest.mark.parametrize("change", ["added", "deleted", "replaced"])
    def test_a_folder_that_changes_after_it_was_read(self, run: Any, make: Any, store: Any, change: str) -> None:
        lists = []

        def meddle(verb: str, key: str) -> None:
            if (verb, key) == ("list", "old/ckpt/") and not lists.append(1) and len(lists) == 2:
                if change == "deleted":
                    store.inner.delete(["old/ckpt/empty"])
                else:
                    store.inner.put(f"old/ckpt/{'new' if change == 'added' else 'opt/state'}", b"STATE")

        store.before = meddle
        with pytest.raises(SourceChangedError):
            adopt(run, "old/ckpt", step=40)
        assert not make.there("manifests/")

    def test_a_newer_writer_wins(self, run: Any, make: Any, store: Any) -> None:
        def claim(verb: str, key: str) -> None:
            if verb == "put" and key.startswith("journals/"):
                store.heal()
                run.catalog.claims.claim()

        store.before = claim
        with pytest.raises(FencedError):
            adopt(run, "old/ckpt", step=40)
        assert not make.there("manifests/")


class TestRefused:
    """Nothing is written when it cannot be done."""

    @pytest.mark.parametrize(
        ("prefix", "says"),
        [
            ("s3://other/bucket", "outside the run"),
            ("/etc", "outside the run"),
            ("memory://x/../y", "unsafe path"),
            ("a/../b", "unsafe path"),
            ("a//b", "unsafe path"),
            ("", "a folder below"),
            ("/", "a folder below|outside the run"),
            ("data", "own folders"),
            ("data/00000001-000000000001-abcdefgh", "own folders"),
            ("manifests/", "own folders"),
            ("journals/x", "own folders"),
            ("nothing/here", "no objects"),
            ("ol", "no objects"),
        ],
    )
    @pytest.mark.usefixtures("there")
    def test_prefixes(self, run: Any, make: Any, prefix: str, says: str) -> None:
        with pytest.raises(ConfigError, match=says):
            adopt(run, prefix, step=1)
        assert make.there() == sorted(OLD)

    @pytest.mark.parametrize("keys", [["x/a", "x/a/b"], ["x/a//b"], ["x/../y"]])
    def test_names_that_no_directory_can_hold(self, run: Any, make: Any, keys: list[str]) -> None:
        for key in keys:
            run.store.put(key, b"x")
        with pytest.raises(ConfigError, match="cannot be"):
            adopt(run, "x", step=1)
        assert not make.there("manifests/")

    @pytest.mark.parametrize(("step", "metrics"), [(-1, {}), (1, {"a:b": 1.0})])
    @pytest.mark.usefixtures("there")
    def test_arguments(self, run: Any, make: Any, step: int, metrics: dict[str, float]) -> None:
        with pytest.raises(ConfigError):
            adopt(run, "old/ckpt", step=step, metrics=metrics)
        assert make.there() == sorted(OLD)


def test_a_directory_may_be_named_by_its_path(tmp_path: Path) -> None:
    root = tmp_path / "my runs"
    (root / "old").mkdir(parents=True)
    (root / "old" / "w").write_bytes(b"weights")
    with open_run(root, Config()) as run:
        assert adopt(run, str(root / "old"), step=1).files == 1
        assert adopt(run, (root / "old").as_uri(), step=2).files == 1
        with pytest.raises(ConfigError, match="outside the run"):
            adopt(run, str(tmp_path), step=3)
        assert verify(run).bad == ()
        assert run.catalog.latest().files[0].key == "old/w"  # type: ignore[union-attr]  there are two


def test_it_continues_nothing_and_gc_finds_nothing_to_delete(run: Any, make: Any, clock: Any) -> None:
    run.store.put("old/w", b"x")
    adopt(run, "old", step=1)
    clock.advance(10_000)
    make.snapshot(2, {})
    assert collect(run, None, grace_s=0, dry_run=False).orphans == ()
    assert len(make.there(layout.JOURNALS)) == 2
