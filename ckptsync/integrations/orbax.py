"""Directories that orbax's `CheckpointManager` writes for JAX: a folder for each step.

    with CheckpointDirectory("s3://bucket/run", "/data/checkpoints", keep=LatestN(3)) as synced:
        done = synced.restore()                           # before the manager looks there; None when there is nothing yet
        manager = orbax.checkpoint.CheckpointManager("/data/checkpoints", options=...)
        for step in range(0 if done is None else done + 1, 10_000):
            state = train(state, step)
            if manager.save(step, args=...):              # may go on behind the loop
                synced.save()                             # of what is whole by now
        manager.wait_until_finished()
        synced.save()

Orbax itself is not imported: it gives a folder its name when all of it is written.
"""

from __future__ import annotations

from ckptsync.directory import SyncedDirectory
from ckptsync.readiness import orbax
from ckptsync.readiness.base import Ready, folder_of
from ckptsync.transfer.source import SourceTree


class CheckpointDirectory(SyncedDirectory):
    """A directory of an orbax `CheckpointManager` on a disk of this machine, written by one process or on a disk that all share.

    A snapshot has the newest step that is whole; older ones are in the snapshots before. While orbax still writes a step, `save` takes
    the one before, and returns False when that was saved already.
    """

    def ready(self, tree: SourceTree) -> Ready | None:
        """As `SyncedDirectory` asks for it."""
        return orbax.newest(folder_of(tree))
