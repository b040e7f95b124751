"""Packed files on a real server, which refuses parts of less than 5 MiB when an upload is finished."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptsync.config import MIB, Config, Transfer
from ckptsync.events import Event
from ckptsync.run import Run, open_run
from ckptsync.store.base import PartTag, StoreWrapper, Upload
from ckptsync.testing.servers import create_bucket, ministack
from ckptsync.transfer.journal import journal_path
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify


class KilledError(BaseException):
    """As SIGKILL."""


class Killing(StoreWrapper):
    """Lets so many parts through, then ends everything."""

    left = -1

    def put_part(self, upload: Upload, number: int, data: bytes | bytearray | memoryview) -> PartTag:
        if not self.left:
            raise KilledError
        self.left -= 1
        return super().put_part(upload, number, data)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    with ministack() as server:
        create_bucket(server, "packed")
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        options = Transfer(part_bytes=6 * MIB, workers=1, compress="zstd")
        with open_run("s3://packed/run", Config(transfer=options, state_dir=str(tmp_path / "state"))) as run:
            yield run


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_zeros_are_saved_continued_copied_and_restored(run: Run, tmp_path: Path, *, lost: bool) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    content = bytearray(20 * MIB) + os.urandom(MIB) + b"end"
    (source / "moments").write_bytes(content)
    killing = Killing(run.store)
    broken = Run(run.url, killing, run.catalog, run.config, run.observer, run.clock)
    killing.left = 2
    with pytest.raises(KilledError):
        save(broken, source, step=1)
    if lost:
        journal_path(run.config.state_path(), run.url, source).unlink()
    saved = save(run, source, step=1)
    assert saved.parts_sent == 2
    assert 15 * MIB < saved.bytes_stored < 17 * MIB  # three parts filled up, and the noise
    content[0] = 1
    (source / "moments").write_bytes(content)
    assert save(run, source, step=2).parts_sent == 1
    assert verify(run).bad == ()
    restore(run, target)
    assert (target / "moments").read_bytes() == content


def _told(event: Event) -> None:
    del event
