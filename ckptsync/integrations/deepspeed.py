"""Directories that DeepSpeed's `save_checkpoint` writes: a folder for each tag, and a file `latest` that names the newest.

    with CheckpointDirectory("s3://bucket/run", "checkpoints", keep=LatestN(3)) as synced:
        synced.restore()                                  # before load_checkpoint
        engine.load_checkpoint("checkpoints")
        ...
        engine.save_checkpoint("checkpoints")             # on all ranks
        synced.save()                                     # on one, which has all files before it

DeepSpeed itself is not imported: it writes `latest` when all ranks have written theirs.

Source: deepspeed/runtime/engine.py, save_checkpoint
"""

from __future__ import annotations

import re

from ckptsync.directory import SyncedDirectory
from ckptsync.errors import ConfigError, DiskError, IncompleteError
from ckptsync.readiness.base import Ready
from ckptsync.transfer.source import SourceTree

LATEST = "latest"
_NUMBER = re.compile(r"(\d+)$")
_MAX_TAG_BYTES = 4096


class CheckpointDirectory(SyncedDirectory):
    """A directory of DeepSpeed's, or of whatever else writes a folder and then its name into `latest`.

    It must have the files of all ranks: those of a single machine, or on a disk that all share. A snapshot has the newest tag, and what
    lies beside the folders, as `zero_to_fp32.py`. The step is the number at the end of the tag, as in `global_step100`.
    """

    def ready(self, tree: SourceTree) -> Ready | None:
        """As `SyncedDirectory` asks for it."""
        paths = {file.path for file in tree.files}
        if LATEST not in paths:
            return None
        tag = self._tag()
        of_tag = {path for path in paths if path.startswith(f"{tag}/")}
        if not of_tag:
            raise IncompleteError(f"{LATEST} in {self.directory} names {tag}, and nothing is there")
        beside = frozenset(path for path in paths if "/" not in path)
        found = _NUMBER.search(tag)
        return Ready(step=int(found[1]) if found else None, paths=beside | of_tag, copied=beside)

    def _tag(self) -> str:
        """The newest tag.

        Raises:
            ConfigError: what stands there is none.
            DiskError: it cannot be read.
        """
        try:
            content = (self.directory / LATEST).read_bytes()
        except OSError as error:
            raise DiskError(f"cannot read {self.directory / LATEST}: {error.strerror}") from error
        try:
            tag = content[:_MAX_TAG_BYTES].decode().strip()
        except UnicodeDecodeError:
            tag = ""
        if not tag or "/" in tag or tag in {".", ".."}:
            raise ConfigError(f"{self.directory / LATEST} names no tag")
        return tag
