"""A run whose every request goes through the fault proxy, to a real service on loopback."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ckptsync.events import Event, Kind
from ckptsync.options import MIB, S3, Config, Gcs, Http, Retry, Transfer
from ckptsync.run import Run, open_run
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.proxy import Entry, Proxy
from ckptsync.verbs.restore import Restored, restore
from ckptsync.verbs.save import Saved, save

PART_BYTES = 5 * MIB
LARGE_BYTES = 5 * PART_BYTES + MIB
PARTS = 6


def make_source(folder: Path, seed: int) -> Path:
    """Fill a folder with one file of six parts, one of one part, and an empty one."""
    folder.mkdir()
    dice = random.Random(seed)
    (folder / "model.bin").write_bytes(dice.randbytes(LARGE_BYTES))
    (folder / "small.bin").write_bytes(dice.randbytes(300_000))
    (folder / "empty").touch()
    return folder


@dataclass(kw_only=True)
class Wired:
    """A run nobody has written to.

    Attributes:
        cloud: `s3` or `gs`.
        proxy: in front of the service.
        direct_url: of the service itself.
        url: of the run.
        work: a folder for states and targets.
        clock: stands still; pauses between tries pass at once.
        events: all that happened.
    """

    cloud: str
    proxy: Proxy
    direct_url: str
    url: str
    work: Path
    clock: FakeClock
    events: list[Event] = field(default_factory=list)

    def config(self, *, endpoint: str = "", **groups: dict[str, Any]) -> Config:
        """Options with small parts; `groups` changes some, as in `retry={"attempts": 3}`."""
        endpoint = endpoint or self.proxy.url
        plain = Config(
            s3=S3(endpoint_url=endpoint, region="us-east-1", checksum="none"),  # MiniStack takes seconds over each
            gcs=Gcs(endpoint_url=endpoint, anonymous=True),
            http=Http(connect_timeout_s=5.0, read_timeout_s=20.0),
            retry=Retry(),
            transfer=Transfer(part_bytes=PART_BYTES, workers=4),
            state_dir=str(self.work / "state"),
        )
        changed = {name: msgspec.structs.replace(getattr(plain, name), **options) for name, options in groups.items()}
        return msgspec.structs.replace(plain, **changed)

    @contextmanager
    def run(self, **groups: dict[str, Any]) -> Iterator[Run]:
        """Open the run through the proxy."""
        with open_run(self.url, self.config(**groups), observer=self.events.append, clock=self.clock) as run:
            yield run

    @contextmanager
    def direct(self) -> Iterator[Run]:
        """Open the run past the proxy."""
        with open_run(self.url, self.config(endpoint=self.direct_url), clock=self.clock) as run:
            yield run

    def save(self, source: Path, step: int = 1, **groups: dict[str, Any]) -> Saved:
        """Save through the proxy."""
        with self.run(**groups) as run:
            return save(run, source, step=step)

    def restore(self, **groups: dict[str, Any]) -> Restored:
        """Restore the newest snapshot through the proxy, to `target`."""
        with self.run(**groups) as run:
            return restore(run, self.target)

    def restore_directly(self) -> Restored:
        """Restore the newest snapshot past the proxy, to `target`."""
        with self.direct() as run:
            return restore(run, self.target)

    def claim(self) -> None:
        """Claim the run past the proxy, so that the first requests a test sees are those of its own save."""
        with self.direct() as run:
            run.catalog.claims.claim()

    def snapshots(self) -> list[str]:
        """Ids of what is committed, the newest first."""
        with self.direct() as run:
            return [str(listed.id) for listed in run.catalog.listed()]

    @property
    def target(self) -> Path:
        """Where restores go."""
        return self.work / "target"

    def told(self, kind: Kind) -> list[str]:
        """Messages of one kind."""
        return [event.message for event in self.events if event.kind is kind]

    def part_puts(self) -> list[Entry]:
        """Requests that sent a part."""
        return self.proxy.entries("PUT", "partNumber=")

    def begun(self) -> list[Entry]:
        """Requests that opened an upload."""
        return self.proxy.entries("POST", r"\?uploads")
