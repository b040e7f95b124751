"""What the bucket has of a file already: parts of an unfinished upload, the whole file, or an older version of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from ckptsync.errors import IntegrityError, NotFoundError
from ckptsync.options import MIB
from ckptsync.snapshot.digest import part_count, part_span
from ckptsync.snapshot.encoding import MAX_PACKED_PART_BYTES, Encoding, Shuffle, encoding_of, packed_bound
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import PartTag, Tag, Upload
from ckptsync.transfer.journal import Progress
from ckptsync.transfer.packing import Piece, room_bytes
from ckptsync.transfer.sampling import best_shuffle
from ckptsync.transfer.source import SourceFile
from ckptsync.transfer.workbench import Bench, Leftovers, choose_part_bytes, fits


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where the upload of a file begins.

    Attributes:
        part_bytes: how it is cut.
        shuffle: how its parts are packed; None when they are stored as they are.
        base: a file in the bucket whose parts are the same where their digests are; None when there is none.
        base_is_ours: `base` is an earlier attempt of this very save, to be named rather than copied.
        upload: unfinished, to be continued.
        held: the parts it has, with their digests; a digest is empty when unknown.
    """

    part_bytes: int
    shuffle: Shuffle | None = None
    base: FileEntry | None = None
    base_is_ours: bool = False
    upload: Upload | None = None
    held: Mapping[int, tuple[str, PartTag]] = field(default_factory=dict)


def find_start(
    file: SourceFile, bench: Bench, progress: Progress, previous: FileEntry | None, leftovers: Leftovers
) -> Start:
    """Find out what the bucket has of a file.

    Args:
        file: the source.
        bench: where to.
        progress: what the journal on this machine knows.
        previous: the file as the snapshot before has it.
        leftovers: what the bucket has of earlier attempts.
    """
    return _Search(file, bench).start(progress, previous, leftovers)


def described(
    file: SourceFile,
    key: str,
    tag: Tag,
    part_bytes: int,
    parts: tuple[str, ...],
    encoding: Encoding | msgspec.UnsetType = msgspec.UNSET,
) -> FileEntry:
    """A file as the manifest will list it."""
    return FileEntry(
        path=file.path,
        size=file.size,
        mode=file.mode,
        mtime_ns=file.identity.mtime_ns,
        key=key,
        tag=tag,
        part_bytes=part_bytes if parts else 0,
        parts=parts,
        encoding=encoding,
    )


def encoded(shuffle: Shuffle | None, sizes: Iterable[int]) -> Encoding | msgspec.UnsetType:
    """How the manifest will say that parts are packed, which have these sizes in the bucket; unset when they are not."""
    return msgspec.UNSET if shuffle is None else encoding_of(shuffle, sizes)


def proven(
    file: SourceFile, bench: Bench, key: str, part_bytes: int, shuffle: Shuffle | None = None
) -> FileEntry | None:
    """Read a file and compare it with what the service vouches for under a key; its entry when both are the same."""
    digests: list[str] = []
    sizes: list[int] = []
    count = part_count(file.size, part_bytes)

    def chunks() -> Iterator[memoryview]:
        for number in range(1, count + 1):
            offset, size = part_span(number, file.size, part_bytes)
            with bench.buffers.take(room_bytes(size, shuffle)) as room:
                piece = Piece(room, size, shuffle, least_bytes(bench, number, count))
                digests.append(file.read_hashed(piece.plain, offset))
                sizes.append(len(piece.stored))
                yield piece.stored

    if not file.size:
        return None
    try:
        there = bench.store.stat(key)
    except NotFoundError:
        return None
    may_be = there.size == file.size if shuffle is None else there.size <= count * packed_bound(part_bytes)
    same = may_be and bench.store.vouches(there.hashes, chunks()) and there.size == sum(sizes)
    if not same or len(digests) != count:
        return None
    return described(file, key, there.tag, part_bytes, tuple(digests), encoded(shuffle, sizes))


def least_bytes(bench: Bench, number: int, count: int) -> int:
    """How long a part must be for the store, the last one apart."""
    return bench.store.traits.min_part_bytes if number < count else 0


class _Search:
    """Looks for what the bucket has of one file."""

    def __init__(self, file: SourceFile, bench: Bench) -> None:
        self.file = file
        self.bench = bench
        self.part_bytes = choose_part_bytes(file.size, bench.transfer.part_bytes, bench.store.traits, file.path)

    def start(self, progress: Progress, previous: FileEntry | None, leftovers: Leftovers) -> Start:
        """Look in the order of what saves most."""
        if previous is not None and not (self.bench.transfer.copy_unchanged and self._may_use(previous)):
            previous = None
        if not self.bench.packs and (progress.shuffle or (progress.entry and progress.entry.packing)):
            progress = Progress()  # begun when we did pack
        upload = progress.upload or (None if progress.entry else leftovers.uploads.get(self.file.path))
        if progress.entry is not None and self._still_there(progress.entry):
            return self._compared_with(progress.entry, ours=True)
        if upload is not None and (continued := self._continued(upload, progress, previous)):
            return continued
        # an upload that was there a moment ago and is not any more may have been finished by a request of a killed process
        found = leftovers.objects.get(self.file.path) or upload
        entry = self._settled(upload, progress) or (
            proven(self.file, self.bench, found.key, self.part_bytes, self._shuffle(self.part_bytes)) if found else None
        )
        if entry is not None:
            return self._compared_with(entry, ours=True)
        return self._compared_with(previous, ours=False)

    @cached_property
    def _best(self) -> Shuffle | None:
        """How packing saves most, if it saves enough."""
        return best_shuffle(self.file)

    def _shuffle(self, part_bytes: int) -> Shuffle | None:
        """How to pack the parts, cut so."""
        traits = self.bench.store.traits
        most = min(traits.max_part_bytes, traits.max_put_bytes, MAX_PACKED_PART_BYTES)
        return self._best if self.bench.packs and packed_bound(part_bytes) <= most else None

    def _may_use(self, entry: FileEntry) -> bool:
        """Whether an object of an earlier snapshot may stand for the file; one that is packed only where we would pack."""
        return self.bench.packs or entry.packing is None

    def _still_there(self, entry: FileEntry) -> bool:
        """Whether a file an earlier attempt finished is in the bucket yet."""
        try:
            found = self.bench.store.stat(entry.key)
        except NotFoundError:
            return False
        return found.size == entry.stored_size and entry.tag in {"", found.tag}

    def _compared_with(self, entry: FileEntry | None, *, ours: bool) -> Start:
        """Compare parts with those of `entry`, cut where they were cut there."""
        if entry is None or not entry.size or not self._can_cut(entry.part_bytes):
            return Start(part_bytes=self.part_bytes, shuffle=self._shuffle(self.part_bytes))
        shuffle = self._shuffle(entry.part_bytes)
        if shuffle and entry.packing:  # packed alike, parts can be copied
            shuffle = entry.packing.shuffle
        return Start(part_bytes=entry.part_bytes, shuffle=shuffle, base=entry, base_is_ours=ours)

    def _can_cut(self, part_bytes: int) -> bool:
        """Whether the file may be cut so: the store takes it, and a part costs no more memory than we may use."""
        transfer = self.bench.transfer
        affordable = part_bytes <= max(2 * self.part_bytes, transfer.part_bytes * transfer.parts_in_flight)
        return affordable and fits(part_bytes, self.file.size, self.bench.store.traits)

    def _continued(self, upload: Upload, progress: Progress, previous: FileEntry | None) -> Start | None:
        """Keep the parts an unfinished upload has; None when it is gone."""
        try:
            there = self.bench.store.parts(upload)
        except NotFoundError:
            return None
        shuffle = progress.shuffle if progress.upload else self._shuffle(self.part_bytes)
        part_bytes = progress.part_bytes or self._cut(there.values(), shuffle)
        if not self._can_cut(part_bytes):
            return None
        if progress.upload is None:  # found in the bucket
            self.bench.journal.begun(self.file.path, upload, part_bytes, shuffle)
        held: dict[int, tuple[str, PartTag]] = {}
        for number, part in there.items():
            digest, noted = progress.parts.get(number, ("", part))
            if noted.tag == part.tag:
                held[number] = (digest, noted)
        base = previous if previous is not None and previous.part_bytes == part_bytes else None
        return Start(part_bytes=part_bytes, shuffle=shuffle, base=base, upload=upload, held=held)

    def _cut(self, there: Iterable[PartTag], shuffle: Shuffle | None) -> int:
        """Where an upload that no journal knows cuts the file: the sizes of its parts tell, unless some are packed."""
        largest = max((part.size for part in there), default=0)
        return largest if shuffle is None and not largest % MIB else self.part_bytes

    def _settled(self, upload: Upload | None, progress: Progress) -> FileEntry | None:
        """Entry of a file whose upload was finished by a request that we did not live to see answered."""
        sizes = [part.size for _, (_, part) in sorted(progress.parts.items())]
        size = self.file.size if progress.shuffle else sum(sizes)
        count = part_count(size, progress.part_bytes) if progress.part_bytes else 0
        if upload is None or not count or progress.parts.keys() != set(range(1, count + 1)):
            return None
        ordered = [progress.parts[number] for number in range(1, count + 1)]
        try:
            made = self.bench.store.finish(upload, [part for _, part in ordered])
        except (NotFoundError, IntegrityError):
            return None
        if made.size != sum(sizes):
            return None
        return FileEntry(
            path=self.file.path,
            size=size,
            key=upload.key,
            tag=made.tag,
            part_bytes=progress.part_bytes,
            parts=tuple(digest for digest, _ in ordered),
            encoding=encoded(progress.shuffle, sizes),
        )
