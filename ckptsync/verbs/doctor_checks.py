"""What the doctor asks of a bucket: each check makes real requests on keys that are deleted afterwards.

A check returns its state and a sentence, or raises: a missing right is told by the store's own error.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ckptsync.errors import CkptsyncError, ConflictError, DeniedError, IntegrityError, NotFoundError
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.store.base import PartTag, Upload
from ckptsync.transfer.workers import map_tasks

State = Literal["ok", "warn", "fail"]
Finding = tuple[State, str]

_RACERS = 8
_TAIL_BYTES = MIB
_SMALL_BYTES = 64 * 1024
_RATE_BYTES, _RATE_PIECE_BYTES = 32 * MIB, 8 * MIB
_CLOCK_WARN_S, _CLOCK_FAIL_S = 60.0, 600.0
_BARRIER_S = 60.0
_ODD_NAME = "odd name ü+%2F&=~(1).bin"


@dataclass(slots=True)
class Probe:
    """A folder of its own in the run, and what was put there.

    Attributes:
        run: where.
        folder: begins every key, ends with `/`.
        keys: objects that may be there; deleted at the end.
        uploads: uploads that may be open; aborted at the end.
        small: content of the object `small`.
        large: content of the multipart object `large`.
    """

    run: Run
    folder: str = field(default_factory=lambda: f"doctor-{secrets.token_hex(8)}/")
    keys: set[str] = field(default_factory=set)
    uploads: list[Upload] = field(default_factory=list)
    small: bytes = field(default_factory=lambda: os.urandom(_SMALL_BYTES))
    large: bytes = b""

    def key(self, name: str) -> str:
        """Make a key and remember to delete it."""
        self.keys.add(self.folder + name)
        return self.folder + name

    def begin(self, name: str) -> Upload:
        """Open an upload and remember to abort it."""
        upload = self.run.store.begin(self.key(name))
        self.uploads.append(upload)
        return upload

    def clean_up(self) -> None:
        """Delete and abort everything; tries all of it before it raises."""
        failure: CkptsyncError | None = None
        for upload in self.uploads:
            try:
                self.run.store.abort(upload)
            except CkptsyncError as error:
                failure = error
        self.run.store.delete(sorted(self.keys))
        self.keys.clear()
        self.uploads.clear()
        if failure is not None:
            raise failure


def can_list(probe: Probe) -> Finding:
    """Reach the bucket at all."""
    begun_s = probe.run.clock.monotonic()
    count = sum(1 for _ in probe.run.store.list("", limit=1))
    took_s = probe.run.clock.monotonic() - begun_s
    return "ok", f"{probe.run.url} answers in {took_s * 1000:.0f} ms" + ("" if count else "; nothing is there yet")


def can_put(probe: Probe) -> Finding:
    """Write a small object."""
    probe.run.store.put(probe.key("small"), probe.small)
    return "ok", f"an object of {len(probe.small)} bytes was written"


def can_get(probe: Probe) -> Finding:
    """Read it back and compare every byte."""
    return _compare(probe, "small", probe.small)


def _compare(probe: Probe, name: str, expected: bytes) -> Finding:
    """Read an object and one byte beyond it."""
    content = bytearray(len(expected) + 1)
    count = probe.run.store.get(probe.folder + name, memoryview(content))
    if count == len(expected) and content[:count] == expected:
        return "ok", f"{count} bytes came back as they were sent"
    if count > len(expected):
        return "fail", (
            "the object is longer than what was sent: the service stores the checksum trailer as content; "
            "set checksum to 'none'"
        )
    return "fail", f"{len(expected)} bytes were sent and {count} came back, not the same ones"


def can_get_range(probe: Probe) -> Finding:
    """Read from the middle, across the end, and past it."""
    store, key, size = probe.run.store, probe.folder + "small", len(probe.small)
    for offset, wanted in ((1001, 4099), (size - 10, 100), (size, 10)):
        content = bytearray(wanted)
        count = store.get(key, memoryview(content), offset=offset)
        if bytes(content[:count]) != probe.small[offset : offset + wanted]:
            return "fail", f"{wanted} bytes from offset {offset} of {size} are not the ones asked for"
    return "ok", "ranges come back as asked for"


def can_stat(probe: Probe) -> Finding:
    """Ask for an object's size, and for one that is not there: 403 must not stand for absent."""
    found = probe.run.store.stat(probe.folder + "small")
    if found.size != len(probe.small):
        return "fail", f"the service tells {found.size} bytes for an object of {len(probe.small)}"
    try:
        probe.run.store.stat(probe.folder + "absent")
    except NotFoundError:
        return "ok", f"size and version are told; digests: {_hashes(found.hashes)}"
    except DeniedError as error:
        return "fail", f"a missing object cannot be told from a forbidden one without the right to list: {error}"
    return "fail", "the service tells of an object that was never written"


def _hashes(hashes: Mapping[str, str]) -> str:
    """Names of the digests a service vouches for."""
    return ", ".join(sorted(hashes)) or "none"


def _unproven(probe: Probe, problem: str) -> Finding:
    """What a store without conditional puts means."""
    if probe.run.config.single_writer:
        return "warn", f"{problem}; allowed because single_writer is set: see to it that nobody else writes"
    return "fail", f"{problem}, so two writers could overwrite each other; set single_writer if there is only one"


def puts_conditionally(probe: Probe) -> Finding:
    """Create the same key twice: the second must be refused, and change nothing."""
    store = probe.run.store
    if not store.traits.conditional_put:
        return _unproven(probe, "this store cannot create an object only if it is absent")
    key = probe.key("conditional")
    try:
        store.put(key, b"first", if_absent=True)
    except ConflictError:
        if store.read(key) != b"first":  # a lost answer to our own first try is no refusal
            return "fail", "a new key is refused as taken"
    try:
        store.put(key, b"second", if_absent=True)
    except ConflictError:
        if store.read(key) == b"first":
            return "ok", "the second creation of a key is refused"
        return "fail", "the second creation of a key is refused, and overwrites it all the same"
    return _unproven(probe, "the condition on a put is ignored")


def has_one_winner(probe: Probe) -> Finding:
    """Let eight threads create one key at once."""
    store = probe.run.store
    if not store.traits.conditional_put:
        return _unproven(probe, "this store cannot create an object only if it is absent")
    key, start = probe.key("race"), threading.Barrier(_RACERS, timeout=_BARRIER_S)

    def race(number: int) -> bool:
        start.wait()
        try:
            store.put(key, b"racer %d" % number, if_absent=True)
        except ConflictError:
            return store.read(key) == b"racer %d" % number
        return True

    winners = [number for number, won in enumerate(map_tasks(race, range(_RACERS), _RACERS)) if won]
    if len(winners) == 1 and store.read(key) == b"racer %d" % winners[0]:
        return "ok", f"of {_RACERS} who create a key at once, one wins"
    return _unproven(probe, f"of {_RACERS} who create a key at once, {len(winners)} are told that they won")


def has_multipart(probe: Probe) -> Finding:
    """Send an object in parts, list them as a resume would, finish from that list, read it back."""
    store, traits = probe.run.store, probe.run.store.traits
    if not traits.multipart:
        return "warn", "no multipart uploads: every file is sent in one request, and a killed one starts over"
    first = max(traits.min_part_bytes, 5 * MIB)
    probe.large = secrets.token_bytes(first) + secrets.token_bytes(_TAIL_BYTES)
    upload = probe.begin("large")
    view = memoryview(probe.large)
    sent = {number: store.put_part(upload, number, view[slice(*span)]) for number, span in _spans(first).items()}
    listed = store.parts(upload)
    if _facts(listed) != _facts(sent):
        return (
            "fail",
            "the parts the service lists are not those that were sent: a killed upload could not be continued",
        )
    store.finish(upload, [listed[number] for number in sorted(listed)])
    state, said = _compare(probe, "large", probe.large)
    if state != "ok":
        return state, said
    return (
        "ok",
        f"two parts were sent, listed and joined, and came back; digests of the whole: {_vouched(probe, 'large')}",
    )


def _vouched(probe: Probe, name: str) -> str:
    """Names of the digests the service has of an object."""
    try:
        return _hashes(probe.run.store.stat(probe.folder + name).hashes)
    except DeniedError:  # told by another check
        return "unknown"


def _spans(first: int) -> dict[int, tuple[int, int]]:
    """Where the two parts lie."""
    return {1: (0, first), 2: (first, first + _TAIL_BYTES)}


def _facts(parts: Mapping[int, PartTag]) -> dict[int, tuple[int, str]]:
    """What must agree."""
    return {number: (part.size, part.tag) for number, part in parts.items()}


def lists_uploads(probe: Probe) -> Finding:
    """Find an unfinished upload again, as a resume without its journal and gc do."""
    if not probe.run.store.traits.multipart:
        return "warn", "no multipart uploads, so none to find"
    upload = probe.begin("unfinished")
    if any(found.id == upload.id for found in probe.run.store.uploads(probe.folder)):
        return "ok", "unfinished uploads are found again"
    return "fail", "an unfinished upload is not listed: gc could not find it and it would be billed for ever"


def aborts(probe: Probe) -> Finding:
    """Drop an unfinished upload that has a part, twice."""
    store = probe.run.store
    if not store.traits.multipart:
        return "warn", "no multipart uploads, so none to abort"
    upload = probe.begin("aborted")
    store.put_part(upload, 1, b"x")
    store.abort(upload)
    store.abort(upload)
    try:
        left = store.parts(upload)
    except NotFoundError:
        return "ok", "an aborted upload is gone with its parts"
    return ("fail", "an aborted upload keeps its parts") if left else ("ok", "an aborted upload has lost its parts")


def copies(probe: Probe) -> Finding:
    """Duplicate an object on the server."""
    if not probe.run.store.traits.copy:
        return "warn", "no copies on the server: unchanged files are sent again"
    probe.run.store.copy(probe.folder + "small", probe.key("copied"))
    state, said = _compare(probe, "copied", probe.small)
    return (state, "a copy made on the server is the same") if state == "ok" else (state, said)


def copies_parts(probe: Probe) -> Finding:
    """Make a part of a range of another object."""
    store = probe.run.store
    if not (store.traits.copy_part and store.traits.multipart):
        return "warn", "no copies of ranges on the server: a file that changed in part is sent whole"
    upload = probe.begin("joined")
    offset, size = 12_345, MIB
    part = store.copy_part(upload, 1, probe.folder + "large", offset, size)
    store.finish(upload, [part])
    state, said = _compare(probe, "joined", probe.large[offset : offset + size])
    return (state, "a range copied on the server is the same") if state == "ok" else (state, said)


def takes_odd_keys(probe: Probe) -> Finding:
    """Use spaces, other scripts, and what URLs give a meaning to."""
    key = probe.key(_ODD_NAME)
    probe.run.store.put(key, probe.small[:100])
    state, said = _compare(probe, _ODD_NAME, probe.small[:100])
    if state != "ok":
        return state, f"{_ODD_NAME!r}: {said}"
    if key not in {found.key for found in probe.run.store.list(probe.folder)}:
        return "fail", f"an object named {_ODD_NAME!r} is listed under another name"
    return "ok", f"names like {_ODD_NAME!r} are kept"


def agrees_on_time(probe: Probe) -> Finding:
    """Compare this machine's clock with the store's."""
    clock = probe.run.clock
    before_s = clock.now()
    probe.run.store.put(probe.key("clock"), b"tick")
    after_s = clock.now()
    stamp_s = probe.run.store.stat(probe.folder + "clock").modified_s
    # services stamp in whole seconds
    off_s = max(before_s - 1 - stamp_s, stamp_s - after_s - 1, 0.0)
    which = "ahead of" if stamp_s < before_s else "behind"
    if off_s <= _CLOCK_WARN_S:
        return "ok", f"this machine's clock and the store's agree ({off_s:.0f} s apart)"
    said = f"this machine's clock is {off_s:.0f} s {which} the store's; signed requests fail at 900 s: set the clock"
    return ("fail" if off_s > _CLOCK_FAIL_S else "warn"), said


def sends_at(probe: Probe) -> Finding:
    """Measure the way up."""
    block = os.urandom(_RATE_PIECE_BYTES)
    pieces = [probe.key(f"rate-{number}") for number in range(_RATE_BYTES // _RATE_PIECE_BYTES)]

    def send(key: str) -> None:
        probe.run.store.put(key, block)

    return "ok", f"{_mib_per_s(probe, partial(map_tasks, send, pieces, len(pieces)))} up, {_MEASURED}"


def receives_at(probe: Probe) -> Finding:
    """Measure the way down."""
    pieces = sorted(key for key in probe.keys if key.startswith(f"{probe.folder}rate-"))

    def receive(key: str) -> None:
        count = probe.run.store.get(key, memoryview(bytearray(_RATE_PIECE_BYTES)))
        if count != _RATE_PIECE_BYTES:
            raise IntegrityError(f"{count} of {_RATE_PIECE_BYTES} bytes came back (key {key!r})")

    return "ok", f"{_mib_per_s(probe, partial(map_tasks, receive, pieces, len(pieces)))} down, {_MEASURED}"


_MEASURED = f"{_RATE_BYTES // MIB} MiB in {_RATE_BYTES // _RATE_PIECE_BYTES} requests at once; `bench` measures more"


def _mib_per_s(probe: Probe, work: Callable[[], object]) -> str:
    """How fast something is."""
    begun_s = probe.run.clock.monotonic()
    work()
    took_s = max(probe.run.clock.monotonic() - begun_s, 1e-9)
    return f"{_RATE_BYTES / MIB / took_s:.0f} MiB/s"


def deletes(probe: Probe) -> Finding:
    """Delete everything, and once more: what is gone counts as deleted."""
    keys = sorted(probe.keys)
    try:
        probe.clean_up()
        probe.run.store.delete(keys)
    except DeniedError as error:
        return "fail", f"a right is missing, so what is below {probe.folder} stays in the bucket: {error}"
    left = [found.key for found in probe.run.store.list(probe.folder)]
    if left:
        probe.run.store.delete(left)
        return "fail", f"{len(left)} deleted objects are still listed, like {left[0]!r}"
    return "ok", "objects are deleted, and deleting them again is no error"
