"""A directory as a bucket: the default that needs no service.

Objects are plain files below the root. `.ckptsync-tmp` below it holds what is being written:

    <32 hex digits>            a file being written, or an upload being dropped
    uploads/<id>/key           an unfinished upload: where it will appear
    uploads/<id>/00001         its parts
    uploads/<id>/object-…      what it may become, whole
    uploads/<id>/decision      which of these it becomes, and of what parts that is made
    finished/<id>              the tag an upload ended with, and its parts, so that a repeated finish is answered truly
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec

from ckptsync.errors import ConfigError, IntegrityError, NotFoundError, StoreError, TransientError, UnsupportedError
from ckptsync.store.base import Buffer, PartTag, Stat, Tag, Upload
from ckptsync.store.local import disk
from ckptsync.store.local.digests import DigestsOnDemand, version_of
from ckptsync.store.local.objects import MAX_PARTS, READ, LocalObjects, described

_KEY = "key"
_DECISION = "decision"
_ID = re.compile(r"[0-9a-f]{32}")
_records = msgspec.json.Decoder(dict[str, str])


class LocalStore(LocalObjects):
    """A bucket in a directory, durable across power cuts, for any number of processes on file systems with POSIX renames.

    Symbolic links below the root are not followed: they are no objects and lead to none. A multipart upload needs its size
    twice while it is being finished, except on file systems that share blocks (Btrfs, XFS).
    """

    def begin(self, key: str) -> Upload:
        """As `Store.begin`."""
        path, name = self._path(key), secrets.token_hex(16)
        folder, draft = self._own / "uploads" / name, self._own / secrets.token_hex(16)
        with self._mapped("begin", key, path), self._temporary() as (fd, temp):
            disk.write(fd, memoryview(msgspec.json.encode({"key": key})))
            os.fsync(fd)
            disk.make_folder(folder.parent)
            draft.mkdir()
            temp.replace(draft / _KEY)
            draft.rename(folder)
            disk.sync_folder(folder.parent)
            return Upload(key=key, id=name, begun_s=os.fstat(fd).st_mtime)

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As `Store.put_part`; the part is on the disk before this returns."""
        view = disk.octets(data)
        folder = self._part_folder("put_part", upload, number)
        with self._mapped("put_part", upload.key, folder, view.nbytes), self._temporary() as (fd, temp):
            disk.write(fd, view)
            return self._keep(fd, temp, folder, number)

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """As `Store.copy_part`, sharing the source's blocks where the file system can."""
        origin, folder = self._path(source), self._part_folder("copy_part", upload, number)
        with (
            self._mapped("copy_part", source, origin, size),
            self._opened("copy_part", source, origin, tag) as found,
            self._temporary() as (fd, temp),
        ):
            length = os.fstat(found).st_size
            if not 0 <= offset <= offset + size <= length:
                raise StoreError(
                    f"bytes {offset} to {offset + size} are not all within the {length} of {origin}",
                    op="copy_part",
                    key=source,
                )
            disk.copy_range(found, fd, offset, size)
            return self._keep(fd, temp, folder, number)

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As `Store.parts`."""
        folder = self._upload_folder("parts", upload)
        with self._mapped("parts", upload.key, folder), os.scandir(folder) as entries:
            found = {int(entry.name): entry.stat(follow_symlinks=False) for entry in entries if entry.name.isdecimal()}
        return {number: _part_tag(number, found[number], folder) for number in sorted(found)}

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """As `Store.finish`. Killed at any point, it leaves either the upload as it was, or the whole object.

        Of several who finish an upload, one decides what it becomes. Whoever means the same parts helps to give that its name, and
        whoever means others finds the upload gone: a process that was thought dead replaces nothing when it wakes up.
        """
        wanted, path = sorted(parts, key=lambda part: part.number), self._path(upload.key)
        work = _work_of(wanted)
        with self._mapped("finish", upload.key, path, sum(part.size for part in wanted)):
            try:
                folder = self._upload_folder("finish", upload)
                if [part.number for part in wanted] != list(range(1, len(wanted) + 1)) or not wanted:
                    raise IntegrityError(f"parts of {upload.key!r} are not numbered 1 to n")
                decided = _decision(folder) or self._decide(upload, folder, wanted, work)
                return self._appear(upload, folder, decided, work)
            except (FileNotFoundError, NotFoundError):
                return self._settle(upload, work)

    def _decide(self, upload: Upload, folder: Path, wanted: Sequence[PartTag], work: str) -> Mapping[str, str]:
        """Make the object, beside its parts, and propose it; return what was decided, which may be another's.

        Raises:
            FileNotFoundError: the upload is gone.
            IntegrityError: a part is not the one that was sent.
        """
        name = f"object-{secrets.token_hex(8)}"
        with self._temporary() as (fd, temp):
            for part in wanted:
                if not _append(folder, part, fd):
                    folder.stat()
                    raise IntegrityError(f"part {part.number} of {upload.key!r} is not the one that was sent")
            os.fsync(fd)
            temp.replace(folder / name)
        proposal = {"object": name, "parts": work}
        with self._temporary() as (fd, temp), suppress(FileExistsError):
            disk.write(fd, memoryview(msgspec.json.encode(proposal)))
            os.fsync(fd)
            try:
                disk.publish(temp, folder / _DECISION, if_absent=True)
            except UnsupportedError:  # then there is a single writer
                temp.replace(folder / _DECISION)
        return _decision(folder) or proposal

    def _appear(self, upload: Upload, folder: Path, decided: Mapping[str, str], work: str) -> Stat:
        """Give what was decided its name, unless another has.

        Raises:
            FileNotFoundError: another has.
            NotFoundError: other parts than ours were decided on.
        """
        if decided["parts"] != work:
            raise NotFoundError("the upload was finished by another with other parts", op="finish", key=upload.key)
        made, receipt = folder / decided["object"], self._own / "finished" / upload.id
        try:
            fd = os.open(made, READ)
        except FileNotFoundError:
            self._drop(folder)
            raise
        try:
            disk.make_folder(receipt.parent)
            told = {"tag": version_of(os.fstat(fd)), "parts": work}
            receipt.write_bytes(msgspec.json.encode(told))
            try:
                self._publish(made, upload.key, self._path(upload.key), if_absent=False)
            except TransientError:
                made.lstat()  # another was quicker
                raise
            self._drop(folder)
            return described(upload.key, os.fstat(fd))
        finally:
            os.close(fd)

    def abort(self, upload: Upload) -> None:
        """As `Store.abort`."""
        with suppress(NotFoundError):
            folder = self._upload_folder("abort", upload)
            with self._mapped("abort", upload.key, folder):
                self._drop(folder)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As `Store.uploads`, in order of their keys."""
        folder, found = self._own / "uploads", []
        with self._mapped("uploads", prefix, folder):
            for entry in disk.entries(folder):
                with suppress(FileNotFoundError, NotADirectoryError):
                    key, begun_s = _read_key(folder / entry.name)
                    found.append(Upload(key=key, id=entry.name, begun_s=begun_s))
        return iter(sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: (one.key, one.id)))

    # -- what they share ---------------------------------------------------------------------------------------------

    def _upload_folder(self, op: str, upload: Upload) -> Path:
        """Where an upload's parts lie."""
        folder = self._own / "uploads" / upload.id
        if _ID.fullmatch(upload.id):
            with self._mapped(op, upload.key, folder):
                if _read_key(folder)[0] == upload.key:
                    return folder
        raise NotFoundError(f"there is no upload {upload.id}", op=op, key=upload.key)

    def _part_folder(self, op: str, upload: Upload, number: int) -> Path:
        """Where a part with this number may be put."""
        if not 1 <= number <= MAX_PARTS:
            raise ConfigError(f"part number {number} is not within 1 to {MAX_PARTS}")
        return self._upload_folder(op, upload)

    def _keep(self, fd: int, temp: Path, folder: Path, number: int) -> PartTag:
        """Move a written part to the others; it is synced first, for a journal may trust its tag after a power cut."""
        os.fsync(fd)
        temp.replace(folder / f"{number:05d}")
        return _part_tag(number, os.fstat(fd))

    def _drop(self, folder: Path) -> None:
        """Remove an upload: it is there with all its parts, or not at all."""
        gone = self._own / secrets.token_hex(16)
        with suppress(FileNotFoundError):
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _settle(self, upload: Upload, work: str) -> Stat:
        """Answer a finish of an upload that is gone."""
        with suppress(FileNotFoundError, NotFoundError, msgspec.DecodeError):
            if _ID.fullmatch(upload.id):
                made = _records.decode((self._own / "finished" / upload.id).read_bytes())
                found = self.stat(upload.key)
                if made == {"tag": found.tag, "parts": work}:
                    return found
        raise NotFoundError("the upload is gone and so is what it made", op="finish", key=upload.key)


def _work_of(parts: Sequence[PartTag]) -> str:
    """What tells a choice of parts from another."""
    told = [(part.number, part.size, part.tag) for part in parts]
    return hashlib.blake2b(msgspec.json.encode(told), digest_size=16).hexdigest()


def _decision(folder: Path) -> Mapping[str, str] | None:
    """What an upload will become; None when that is open."""
    try:
        return _records.decode((folder / _DECISION).read_bytes())
    except FileNotFoundError:
        return None


def _part_tag(number: int, found: os.stat_result, folder: Path | None = None) -> PartTag:
    """Describe a part; where it lies in a folder, with digests."""
    tag = PartTag(number=number, size=found.st_size, tag=version_of(found))
    return replace(tag, hashes=DigestsOnDemand(folder / f"{number:05d}", found)) if folder else tag


def _read_key(folder: Path) -> tuple[str, float]:
    """Read where an upload is to appear, and when it was begun.

    Raises:
        FileNotFoundError: there is no such upload.
    """
    file = folder / _KEY
    try:
        key = _records.decode(file.read_bytes())["key"]
    except (msgspec.DecodeError, KeyError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file)) from error
    return key, file.stat().st_mtime


def _append(folder: Path, part: PartTag, target: int) -> bool:
    """Append a part to an open file; False when it is not there, or not the one meant."""
    try:
        fd = os.open(folder / f"{part.number:05d}", READ)
    except FileNotFoundError:
        return False
    try:
        found = os.fstat(fd)
        return version_of(found) == part.tag and disk.copy_range(fd, target, 0, found.st_size) == found.st_size
    finally:
        os.close(fd)
