"""Directories that DeepSpeed's `save_checkpoint` writes: a folder for each tag, and a file `latest` that names the newest.

    with CheckpointDirectory("s3://bucket/run", "checkpoints", keep=LatestN(3)) as synced:
        synced.restore()                                  # before load_checkpoint
        engine.load_checkpoint("checkpoints")
        ...
        engine.save_checkpoint("checkpoints")             # on all ranks
        synced.save()                                     # on one, which has all files before it

DeepSpeed itself is not imported: it writes `latest` when all ranks have written theirs.
"""

from __future__ import annotations

from ckptsync.directory import SyncedDirectory
from ckptsync.readiness import deepspeed
from ckptsync.readiness.base import Ready, folder_of
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.deepspeed import LATEST
from ckptsync.transfer.source import SourceTree


class CheckpointDirectory(SyncedDirectory):
    """A directory of DeepSpeed's, or of whatever else writes a folder and then its name into `latest`.

    It must have the files of all ranks: those of a single machine, or on a disk that all share. A snapshot has the newest tag, and what
    lies beside the folders, as `zero_to_fp32.py`. The step is the number at the end of the tag, as in `global_step100`.
    """

    def ready(self, tree: SourceTree) -> Ready | None:
        """As `SyncedDirectory` asks for it."""
        folder = folder_of(tree)
        return deepspeed.newest(folder, Contents()) if LATEST in folder.files else None
