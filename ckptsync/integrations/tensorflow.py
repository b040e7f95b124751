"""Directories that `tf.train.CheckpointManager` writes, into a run and out of it.

    with CheckpointDirectory("s3://bucket/run", "checkpoints", keep=LatestN(3)) as synced:
        synced.restore()                                  # before the manager looks there
        manager = tf.train.CheckpointManager(checkpoint, "checkpoints", max_to_keep=3)
        checkpoint.restore(manager.latest_checkpoint)
        for step in range(int(checkpoint.step), 10_000):
            train(step)
            if step % 100 == 0:
                manager.save(checkpoint_number=step)
                synced.save()

TensorFlow itself is not imported: its file `checkpoint` tells which checkpoints are whole, since it is replaced when one is.
"""

from __future__ import annotations

from ckptsync.directory import SyncedDirectory
from ckptsync.readiness import tensorflow
from ckptsync.readiness.base import Ready, folder_of
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.tensorflow import STATE
from ckptsync.transfer.source import SourceTree


class CheckpointDirectory(SyncedDirectory):
    """A directory of a `tf.train.CheckpointManager`, or of whatever else keeps TensorFlow's file `checkpoint` there.

    A snapshot has the checkpoints which that file lists, whole, and the file itself, with paths relative to the directory: so
    `tf.train.latest_checkpoint` works wherever it is restored. Other files are left alone. Of older checkpoints that are still
    listed nothing is sent again. The step is the number at the end of the newest one's name.
    """

    def ready(self, tree: SourceTree) -> Ready | None:
        """As `SyncedDirectory` asks for it."""
        folder = folder_of(tree)
        return tensorflow.newest(folder, Contents()) if STATE in folder.files else None
