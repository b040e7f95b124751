"""Packed files on real servers, which refuse parts of less than 5 MiB when an upload is finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.tree import fingerprint

from ckptsync.config import MIB, resolve
from ckptsync.run import Run, open_run
from ckptsync.store.base import Buffer, PartTag, StoreWrapper, Upload
from ckptsync.transfer.journal import journal_path
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify


class KilledError(BaseException):
    """As SIGKILL."""


class Killing(StoreWrapper):
    """Lets so many parts through, then ends everything."""

    left = 2

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        if not self.left:
            raise KilledError
        self.left -= 1
        return super().put_part(upload, number, data)


@pytest.fixture
def run(url: str) -> Iterator[Run]:
    options = {"transfer": {"part_bytes": 6 * MIB, "workers": 1, "compress": "zstd"}}
    with open_run(url, resolve(options)) as opened:
        yield opened


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Mostly zeros, as the moments of embeddings are; and what cannot be packed."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "moments").write_bytes(bytes(20 * MIB) + os.urandom(MIB) + b"end")
    (tmp_path / "source" / "noise").write_bytes(os.urandom(100_000))
    (tmp_path / "source" / "zeros").write_bytes(bytes(100_000))
    return tmp_path / "source"


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_a_killed_save_is_continued_copied_on_verified_and_restored(
    run: Run, source: Path, tmp_path: Path, *, lost: bool
) -> None:
    with pytest.raises(KilledError):
        save(replace(run, store=Killing(run.store)), source, step=1)
    if lost:
        journal_path(run.config.state_path(), run.url, source).unlink()
    saved = save(run, source, step=1)
    assert saved.bytes_stored < saved.bytes
    with (source / "moments").open("r+b") as file:
        file.write(b"changed")
    again = save(run, source, step=2)
    if run.store.traits.copy_part:
        assert again.bytes_sent < saved.bytes_stored / 2
    assert verify(run).bad == ()
    restored = restore(run, tmp_path / "target")
    assert restored.step == 2
    assert fingerprint(tmp_path / "target") == fingerprint(source)


def test_some_of_it_is_restored_alone(run: Run, source: Path, tmp_path: Path) -> None:
    save(run, source, step=1)
    restore(run, tmp_path / "target", include=("zeros",))
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["zeros"]
    assert (tmp_path / "target" / "zeros").read_bytes() == bytes(100_000)
