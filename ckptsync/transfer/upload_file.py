"""One file into a bucket: in one put when it is one part, else as a multipart upload that may be continued."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from msgspec import UNSET, UnsetType

from ckptsync.errors import (
    ConflictError,
    CredentialsError,
    IncompleteError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
    naming,
)
from ckptsync.events import Event, Kind
from ckptsync.snapshot.digest import part_count, part_digest, part_span
from ckptsync.snapshot.encoding import Encoding
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import PartTag, Stat, Tag, Upload
from ckptsync.transfer.journal import Progress
from ckptsync.transfer.packing import Piece, room_bytes
from ckptsync.transfer.resume import Start, described, encoded, find_start, least_bytes, proven
from ckptsync.transfer.source import SourceFile
from ckptsync.transfer.workbench import NOTHING_LEFT, Bench, Leftovers
from ckptsync.transfer.workers import Task

_RESTARTS = 2
"""How often an upload that vanished or was tampered with is begun anew."""

_NOT_OURS_TO_SOLVE = (TransientError, CredentialsError)
"""Failures of a copy that sending would meet as well; any other is answered by sending."""

Done = Callable[[FileEntry], None]


class FileUpload:
    """The upload of one file, shared by the threads that send its parts."""

    def __init__(self, file: SourceFile, bench: Bench, start: Start, done: Done) -> None:
        self.file = file
        self.bench = bench
        self.start = start
        self.done = done
        self.lock = threading.Lock()
        self.upload = start.upload
        self.restarts = 0
        self._reset()

    def _reset(self) -> None:
        """Forget what this run has found out about the parts."""
        self.count = part_count(self.file.size, self.start.part_bytes)
        self.digests = [""] * self.count
        self.tags: dict[int, PartTag] = {}
        self.unchanged: list[int] = []
        self.left = self.count

    # -- the parts ---------------------------------------------------------------------------------------------------

    def tasks(self) -> list[Task]:
        """What is to be done first."""
        if not self.count:
            return [partial(self._named, self._put_empty)]
        return [partial(self._named, self._part, number, self.restarts) for number in range(1, self.count + 1)]

    def _named(self, work: Callable[..., Iterable[Task] | None], *arguments: int) -> Iterable[Task] | None:
        """Do something with a part, or with none; an error of the store names it."""
        with naming(self.file.path, part=arguments[0] if arguments else 0, parts=self.count):
            return work(*arguments)

    def _put_empty(self) -> None:
        """Make an object of no bytes."""
        nothing = memoryview(bytearray())
        self.file.read_into(nothing, 0)
        self._put(Piece(nothing, 0, None, 0))

    def _part(self, number: int, generation: int) -> Iterable[Task] | None:
        """Read and hash one part, and send it unless the bucket has it."""
        if generation != self.restarts:
            return None
        offset, size = part_span(number, self.file.size, self.start.part_bytes)
        with self._piece(number) as piece:
            digest = self.digests[number - 1] = self.file.read_hashed(piece.plain, offset)
            if (tag := self._held_tag(number, digest, piece)) is not None:
                self._keep(number, tag, generation)
                self.bench.tell_reused(self.file.path, size, tag.size)
            elif self._is_in_base(number, digest) and not (self.bench.shared and self.count == 1):
                with self.lock:
                    if generation == self.restarts:
                        self.unchanged.append(number)
            elif self.count == 1 and self.upload is None:
                return self._put(piece)
            elif (again := self._send(number, digest, piece, generation)) is not None:
                return again
        return self._part_done(generation)

    @contextmanager
    def _piece(self, number: int) -> Iterator[Piece]:
        """Lend memory for a part, in which it is packed as well."""
        size, shuffle = part_span(number, self.file.size, self.start.part_bytes)[1], self.start.shuffle
        with self.bench.buffers.take(room_bytes(size, shuffle)) as room:
            yield Piece(room, size, shuffle, least_bytes(self.bench, number, self.count))

    def _held_tag(self, number: int, digest: str, piece: Piece) -> PartTag | None:
        """Tag of a part when the unfinished upload has exactly these bytes."""
        known, tag = self.start.held.get(number, ("", None))
        if tag is None or tag.size < least_bytes(self.bench, number, self.count):
            return None
        if known and (self.start.shuffle or tag.size == len(piece.plain)):
            return tag if known == digest else None
        if known or tag.size != len(piece.stored) or not self.bench.store.vouches(tag.hashes, [piece.stored]):
            return None
        self._note_part(digest, tag)
        return tag

    def _keep(self, number: int, tag: PartTag, generation: int) -> bool:
        """Let a part be finished with; False when the upload it belongs to was given up meanwhile."""
        with self.lock:
            if generation == self.restarts:
                self.tags[number] = tag
            return generation == self.restarts

    def _is_in_base(self, number: int, digest: str) -> bool:
        """Whether the file we compare with has the same part at the same place."""
        base = self.start.base
        return base is not None and number <= len(base.parts) and base.parts[number - 1] == digest

    def _put(self, piece: Piece) -> list[Task]:
        """Send a file of one part; nothing is left to do."""
        key, view = self.bench.key(self.file.path), piece.stored
        try:
            made = self.bench.store.put(key, view, if_absent=self.bench.shared)
        except ConflictError as error:
            if not self.bench.shared:
                raise
            made = self._replica(key, view, error)
            self.bench.tell_reused(self.file.path, len(view))
        else:
            if view:
                self.bench.tell_sent(self.file.path, self.file.size, len(view))
        return self._finished(key, made.tag, encoded(self.start.shuffle if view else None, [len(view)]))

    def _replica(self, key: str, view: memoryview, cause: ConflictError) -> Stat:
        """Look at what another rank, or a try of ours whose answer was lost, has put there: it must be the same.

        Raises:
            IncompleteError: it is not.
        """
        store, found = self.bench.store, self.bench.store.stat(key)
        if found.size == len(view) and (not found.size or store.vouches(found.hashes, [view])):
            return found
        if found.size == len(view) == store.get(key, view, tag=found.tag) and part_digest(view) == self.digests[0]:
            return found
        raise _differs(self.file.path) from cause

    def _send(self, number: int, digest: str, piece: Piece, generation: int) -> Iterable[Task] | None:
        """Send one part; tasks to begin anew when the upload is gone, None when there is nothing more to do about it."""
        try:
            if (upload := self._begun(generation)) is None:
                return None
            tag = self.bench.store.put_part(upload, number, piece.stored)
        except NotFoundError as error:
            return self._begin_anew(generation, error)
        if self._keep(number, tag, generation):
            self._note_part(digest, tag)
        self.bench.tell_sent(self.file.path, len(piece.plain), len(piece.stored))
        return None

    def _begun(self, generation: int) -> Upload | None:
        """The multipart upload, opened by whoever needs it first; None to a thread that is late for the one it meant.

        What such a thread sent into the new upload would replace a part there, and its tag.
        """
        with self.lock:
            if generation != self.restarts:
                return None
            if self.upload is None:
                self.upload = self.bench.store.begin(self.bench.key(self.file.path))
                self.bench.journal.begun(self.file.path, self.upload, self.start.part_bytes, self.start.shuffle)
            return self.upload

    def _note_part(self, digest: str, tag: PartTag) -> None:
        """Write a part into the journal."""
        if self.upload is not None:
            self.bench.journal.part(self.file.path, self.upload, digest, tag)

    def _part_done(self, generation: int) -> Iterable[Task] | None:
        """Count down; the last one decides what comes next."""
        with self.lock:
            if generation != self.restarts:
                return None
            self.left -= 1
            if self.left:
                return None
            waiting, self.unchanged = self.unchanged, []
            if len(waiting) == self.count:
                return [partial(self._reuse_whole, generation)]
            self.left = len(waiting)
        if waiting:
            return [partial(self._named, self._copy_part, number, generation) for number in waiting]
        return self._finish(generation)

    # -- unchanged content -------------------------------------------------------------------------------------------

    def _reuse_whole(self, generation: int) -> Iterable[Task] | None:
        """Name or copy a file in which nothing changed."""
        base, traits = self.start.base, self.bench.store.traits
        assert base is not None  # noqa: S101  only reached when every part was found in it
        if self.start.base_is_ours and base.size == self.file.size:
            self.bench.tell_reused(self.file.path, self.file.size, base.stored_size)
            return self._finished(base.key, Tag(base.tag), base.encoding)
        whole = base.size == self.file.size and base.stored_size <= traits.max_copy_bytes
        if traits.copy and whole and self.upload is None:
            if (entry := self._of_another()) is not None:
                self.bench.tell_reused(self.file.path, self.file.size)
                return self._finished(entry.key, Tag(entry.tag))
            key = self.bench.key(self.file.path)
            try:
                with naming(self.file.path):
                    copied = self.bench.store.copy(base.key, key, tag=Tag(base.tag) or None)
            except _NOT_OURS_TO_SOLVE:
                raise
            except StoreError as error:
                return self._begin_anew(generation, error)
            if copied.size == base.stored_size:
                self.bench.tell_reused(self.file.path, self.file.size, copied.size)
                return self._finished(key, copied.tag, base.encoding)
        with self.lock:
            self.left = self.count
        return [partial(self._named, self._copy_part, number, generation) for number in range(1, self.count + 1)]

    def _copy_part(self, number: int, generation: int) -> Iterable[Task] | None:
        """Copy an unchanged part on the server, or send it where that cannot be done."""
        if generation != self.restarts:
            return None
        offset, size = part_span(number, self.file.size, self.start.part_bytes)
        if (base := self._copied_from(number)) is not None:
            try:
                if (upload := self._begun(generation)) is None:
                    return None
                span = base.stored_span(number)
                tag = self.bench.store.copy_part(upload, number, base.key, *span, tag=Tag(base.tag) or None)
            except _NOT_OURS_TO_SOLVE:
                raise
            except StoreError as error:
                return self._begin_anew(generation, error)
            if self._keep(number, tag, generation):
                self._note_part(self.digests[number - 1], tag)
            self.bench.tell_reused(self.file.path, size, tag.size)
        else:
            with self._piece(number) as piece:
                digest = self.digests[number - 1] = self.file.read_hashed(piece.plain, offset)
                if self.count == 1:
                    return self._put(piece)
                if (again := self._send(number, digest, piece, generation)) is not None:
                    return again
        return self._part_done(generation)

    def _copied_from(self, number: int) -> FileEntry | None:
        """The file that a part can be copied from: packed the same way as this one is, or neither."""
        base, traits = self.start.base, self.bench.store.traits
        if base is None or not traits.copy_part or base.stored_size < traits.min_part_bytes:
            return None
        if (base.packing.shuffle if base.packing else None) != self.start.shuffle:
            return None
        # what is packed may be short where it was the last part
        return base if base.stored_span(number)[1] >= least_bytes(self.bench, number, self.count) else None

    # -- the end -----------------------------------------------------------------------------------------------------

    def _finish(self, generation: int) -> Iterable[Task] | None:
        """Make the object appear."""
        if (upload := self._begun(generation)) is None:
            return None
        if (entry := self._of_another()) is not None:
            self.bench.store.abort(upload)
            return self._finished(entry.key, Tag(entry.tag))
        try:
            with naming(self.file.path):  # it happens in the task of the last part, but is not about that
                made = self.bench.store.finish(upload, [self.tags[number] for number in range(1, self.count + 1)])
        except (NotFoundError, IntegrityError) as error:
            return self._begin_anew(generation, error)
        sizes = [self.tags[number].size for number in range(1, self.count + 1)]
        if made.size != (stored := sum(sizes) if self.start.shuffle else self.file.size):
            problem = IntegrityError(f"{self.file.path} has {made.size} bytes in the bucket instead of {stored}")
            return self._begin_anew(generation, problem)
        return self._finished(upload.key, made.tag, encoded(self.start.shuffle, sizes))

    def _of_another(self) -> FileEntry | None:
        """Entry of the same file when another rank, or a twin of this one, has finished it meanwhile.

        It may be committed, and being read: readers hold on to its version, and would take the snapshot for damaged.

        Raises:
            IncompleteError: what is there is not what we have now, though it was when we promised it.
        """
        if not self.bench.shared:
            return None
        key, part_bytes = self.bench.key(self.file.path), self.start.part_bytes
        try:
            found = self.bench.store.stat(key)
        except NotFoundError:
            return None
        if found.size != self.file.size:
            return None
        if (entry := proven(self.file, self.bench, key, part_bytes)) is None and self._reads_alike(found):
            entry = described(self.file, key, found.tag, part_bytes, tuple(self.digests))
        if entry is None:
            raise _differs(self.file.path)
        return entry

    def _reads_alike(self, found: Stat) -> bool:
        """Read a whole object back, and compare it with the parts that we have hashed."""
        for number, digest in enumerate(self.digests, 1):
            offset, size = part_span(number, self.file.size, self.start.part_bytes)
            with self.bench.buffers.take(size) as view:
                count = self.bench.store.get(found.key, view, offset=offset, tag=found.tag)
                if count != size or part_digest(view) != digest:
                    return False
        return True

    def _finished(self, key: str, tag: Tag, encoding: Encoding | UnsetType = UNSET) -> list[Task]:
        """Hand out the entry; nothing is left to do."""
        entry = described(self.file, key, tag, self.start.part_bytes, tuple(self.digests), encoding)
        self.bench.journal.finished(entry)
        self.bench.observer(Event(kind=Kind.FILE_DONE, path=self.file.path, bytes=self.file.size, count=1))
        self.done(entry)
        return []

    def _begin_anew(self, generation: int, error: StoreError | IntegrityError) -> Iterable[Task] | None:
        """Start this file over, once for all threads that met the same trouble.

        Raises:
            FencedError: a newer writer owns the run.
        StoreError: it was begun anew often enough.
        """
        self.bench.check_not_fenced()  # a newer writer may have taken the upload over: it is no longer ours to abort
        with self.lock:
            if generation != self.restarts:
                return None
            if self.restarts == _RESTARTS:
                raise error
            self.restarts += 1
            upload, self.upload = self.upload, None
            self.start = replace(self.start, base=None, upload=None, held={})
            self._reset()
        self.bench.observer(
            Event(kind=Kind.NOTICE, path=self.file.path, message=f"{self.file.path} is sent anew: {error}")
        )
        if upload is not None:
            self.bench.store.abort(upload)
        return self.tasks()


def _differs(path: str) -> IncompleteError:
    """Say that another rank was first with other content."""
    return IncompleteError(
        f"{path} differs between ranks: another one has saved other content under that name; "
        "let each rank save its own files below a folder of its own (--under)"
    )


def start_file(
    file: SourceFile, bench: Bench, progress: Progress, previous: FileEntry | None, leftovers: Leftovers, done: Done
) -> Iterable[Task]:
    """Find out what the bucket has of a file, and return the tasks that bring the rest."""
    with naming(file.path):
        start = find_start(file, bench, progress, previous, leftovers)
    return FileUpload(file, bench, start, done).tasks()


def send_whole(file: SourceFile, bench: Bench, previous: FileEntry | None) -> FileEntry:
    """Bring a file of which the bucket has nothing yet, in this thread."""
    entries: list[FileEntry] = []
    tasks = list(start_file(file, bench, Progress(), previous, NOTHING_LEFT, entries.append) or ())
    while tasks:
        tasks.extend(tasks.pop()() or ())
    return entries[0]
