"""A bucket without conditional puts: refused, unless the user vouches for being the only writer."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.tree import fingerprint

from ckptsync.errors import UnsupportedError
from ckptsync.options import Config, Transfer
from ckptsync.run import Run, run_on
from ckptsync.store.base import Buffer, Stat, Store, StoreWrapper
from ckptsync.store.fsspec import FsspecStore
from ckptsync.store.memory import MemoryStore
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save


class Unconditional(StoreWrapper):
    """A store that says that it has no conditions, and may not be asked for one."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.traits = replace(inner.traits, conditional_put=False)

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        assert not if_absent
        return super().put(key, data)


STORES: dict[str, Callable[[], Store]] = {
    "memory": lambda: Unconditional(MemoryStore()),
    "fsspec": lambda: FsspecStore(f"memory://{uuid.uuid4().hex}/run"),
}


def opened(store: Store, folder: Path, *, single_writer: bool) -> Run:
    config = Config(state_dir=str(folder / "state"), single_writer=single_writer, transfer=Transfer(part_bytes=1 << 20))
    return run_on(store, config, observer=lambda _: None)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "model.bin").write_bytes(b"weights" * 1000)
    return tree


@pytest.mark.req(26)
@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_it_is_refused_in_words_that_say_what_to_do(make: Callable[[], Store], tree: Path, tmp_path: Path) -> None:
    store = make()
    with pytest.raises(UnsupportedError) as caught:
        save(opened(store, tmp_path, single_writer=False), tree, step=1)
    assert str(caught.value) == (
        f"{store.url} cannot create an object only if it is absent, so two writers could overwrite each other; "
        "set single_writer (--single-writer) if there is only one (during put)"
    )
    assert not list(store.list(""))


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
def test_who_vouches_for_it_saves_and_restores(make: Callable[[], Store], tree: Path, tmp_path: Path) -> None:
    run = opened(make(), tmp_path, single_writer=True)
    made = [save(run, tree, step=step) for step in (1, 2)]
    assert [saved.epoch for saved in made] == [1, 2]
    restore(run, tmp_path / "back")
    assert fingerprint(tmp_path / "back") == fingerprint(tree)
