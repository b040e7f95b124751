"""What each opcode of a pickle does to a stack that holds nothing but plain values.

Source: https://github.com/python/cpython/blob/3.13/Lib/pickletools.py
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that a pickle names."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of a class, of which nothing else is known."""

    of: Named


class Opaque:
    """Stands for whatever is not looked into."""

    __slots__ = ()


OPAQUE: Final = Opaque()
Watch = Callable[[object, object], None]
_SCALARS = (int, float, str, bytes, bool, type(None))
_SHARED = frozenset({str, Named})
_ORDERED = Named("collections", "OrderedDict")
_MAX_DIGITS, _MEMO_DIGITS = 40, 10
_MARK: Final = Opaque()


class Machine:
    """Where in a pickle we are, and what lies on its stack."""

    __slots__ = ("at", "data", "is_done", "kept", "memo", "stack", "watch")

    def __init__(self, data: bytes, at: int, watch: Watch) -> None:
        self.data, self.at, self.watch = data, at, watch
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.kept = 0
        self.is_done = False

    def take(self, count: int) -> bytes:
        """The next bytes."""
        end = self.at + count
        if end > len(self.data):
            raise IndexError
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def line(self) -> bytes:
        """The bytes up to the end of the line."""
        end = self.data.index(b"\n", self.at)
        piece = self.data[self.at : end]
        self.at = end + 1
        return piece

    def marked(self) -> list[object]:
        """Take what lies above the uppermost mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def remember(self, number: int) -> None:
        """Keep what is uppermost, for later use, if it is plain: what is looked into is not shared."""
        self.kept += 1
        value = self.stack[-1]
        if type(value) in _SHARED:
            self.memo[number] = value

    def recall(self, number: int) -> None:
        """Push what was kept."""
        self.stack.append(self.memo.get(number, OPAQUE))


Step = Callable[[Machine], None]


def _plain(value: object) -> object:
    """A value as a dictionary keeps it."""
    return value if isinstance(value, _SCALARS) else OPAQUE


def _set(mapping: object, pairs: list[object]) -> None:
    """Set items of a dictionary."""
    if isinstance(mapping, dict):
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, str):
                mapping[key] = _plain(value)


def _constant(make: Callable[[], object]) -> Step:
    """Push a new value."""
    return lambda machine: machine.stack.append(make())


def _fixed(layout: str) -> Step:
    """Push a number of a fixed size."""
    number = struct.Struct(layout)

    def step(machine: Machine) -> None:
        machine.stack.append(number.unpack(machine.take(number.size))[0])

    return step


def _sized(length_bytes: int, convert: Callable[[bytes], object]) -> Step:
    """Push what follows behind its length."""

    def step(machine: Machine) -> None:
        machine.stack.append(convert(machine.take(int.from_bytes(machine.take(length_bytes), "little"))))

    return step


def _line(convert: Callable[[bytes], object]) -> Step:
    """Push what stands on a line."""
    return lambda machine: machine.stack.append(convert(machine.line()))


def _text(data: bytes) -> str:
    """A text, which may hold what is no character."""
    return data.decode("utf-8", "surrogatepass")


def _number(data: bytes) -> object:
    """A number in decimal digits."""
    if len(data) > _MAX_DIGITS:
        return OPAQUE
    return data == b"01" if data in {b"00", b"01"} else int(data.rstrip(b"L"))


def _whole(data: bytes) -> object:
    """A number of any size."""
    return int.from_bytes(data, "little", signed=True) if len(data) <= _MAX_DIGITS else OPAQUE


def _put(length_bytes: int) -> Step:
    """Remember under a number."""

    def step(machine: Machine) -> None:
        machine.remember(int.from_bytes(machine.take(length_bytes), "little"))

    return step


def _get(length_bytes: int) -> Step:
    """Push what was remembered under a number."""

    def step(machine: Machine) -> None:
        machine.recall(int.from_bytes(machine.take(length_bytes), "little"))

    return step


def _skipped(count: int, *, push: bool = False) -> Step:
    """Pass over bytes that say nothing here."""

    def step(machine: Machine) -> None:
        machine.take(count)
        if push:
            machine.stack.append(OPAQUE)

    return step


def _call(count: int) -> Step:
    """Replace a callable and its arguments by what would be made of them."""

    def step(machine: Machine) -> None:
        del machine.stack[len(machine.stack) - count + 1 :]
        called = machine.stack.pop()
        if called == _ORDERED:
            machine.stack.append({})
        else:
            machine.stack.append(Instance(called) if isinstance(called, Named) else OPAQUE)

    return step


def _tuple(count: int) -> Step:
    """Push a tuple of what is uppermost."""

    def step(machine: Machine) -> None:
        at = len(machine.stack) - count
        if at < 0:
            raise IndexError
        machine.stack[at:] = [tuple(map(_part, machine.stack[at:]))]

    return step


def _part(value: object) -> object:
    """A value as a tuple keeps it."""
    return value if isinstance(value, (*_SCALARS, Named)) else OPAQUE


def _marked_tuple(machine: Machine) -> None:
    machine.stack.append(tuple(map(_part, machine.marked())))


def _marked_dict(machine: Machine) -> None:
    made: dict[object, object] = {}
    _set(made, machine.marked())
    machine.stack.append(made)


def _marked_opaque(machine: Machine) -> None:
    machine.marked()
    machine.stack.append(OPAQUE)


def _set_item(machine: Machine) -> None:
    pair = machine.stack[-2:]
    del machine.stack[-2:]
    _set(machine.stack[-1], pair)


def _set_items(machine: Machine) -> None:
    pairs = machine.marked()
    _set(machine.stack[-1], pairs)


def _drop_marked(machine: Machine) -> None:
    machine.marked()


def _drop(machine: Machine) -> None:
    machine.stack.pop()


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    if isinstance(machine.stack[-1], Instance):
        machine.watch(machine.stack[-1], state)


def _global(machine: Machine) -> None:
    machine.stack.append(Named(_text(machine.line()), _text(machine.line())))


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(Named(str(module), str(name)))


def _instance(machine: Machine) -> None:
    _global(machine)
    named = machine.stack.pop()
    machine.marked()
    machine.stack.append(Instance(named) if isinstance(named, Named) else OPAQUE)


def _marked_object(machine: Machine) -> None:
    named = next(iter(machine.marked()), None)
    machine.stack.append(Instance(named) if isinstance(named, Named) else OPAQUE)


def _persistent(machine: Machine) -> None:
    machine.watch(None, machine.stack.pop())
    machine.stack.append(OPAQUE)


def _persistent_line(machine: Machine) -> None:
    machine.watch(None, _text(machine.line()))
    machine.stack.append(OPAQUE)


def _duplicate(machine: Machine) -> None:
    machine.stack.append(machine.stack[-1])


def _memoize(machine: Machine) -> None:
    machine.remember(machine.kept)


def _put_line(machine: Machine) -> None:
    machine.remember(int(machine.line()[:_MEMO_DIGITS]))


def _get_line(machine: Machine) -> None:
    machine.recall(int(machine.line()[:_MEMO_DIGITS]))


def _stop(machine: Machine) -> None:
    if not machine.stack:
        raise IndexError
    machine.is_done = True


def _nothing(machine: Machine) -> None:
    """Do nothing."""


_BY_OPCODE: dict[bytes, Step] = {
    b"(": lambda machine: machine.stack.append(_MARK),
    b".": _stop,
    b"0": _drop,
    b"1": _drop_marked,
    b"2": _duplicate,
    b"F": _line(float),
    b"G": _fixed(">d"),
    b"I": _line(_number),
    b"L": _line(_number),
    b"J": _fixed("<i"),
    b"K": _fixed("<B"),
    b"M": _fixed("<H"),
    b"N": _constant(lambda: None),
    b"\x88": _constant(lambda: True),
    b"\x89": _constant(lambda: False),
    b"\x8a": _sized(1, _whole),
    b"\x8b": _sized(4, _whole),
    b"S": _line(lambda data: data.decode("latin-1").strip("'\"")),
    b"T": _sized(4, bytes),
    b"U": _sized(1, bytes),
    b"V": _line(lambda data: data.decode("raw_unicode_escape")),
    b"X": _sized(4, _text),
    b"\x8c": _sized(1, _text),
    b"\x8d": _sized(8, _text),
    b"B": _sized(4, bytes),
    b"C": _sized(1, bytes),
    b"\x8e": _sized(8, bytes),
    b"\x96": _sized(8, lambda _: OPAQUE),
    b"P": _persistent_line,
    b"Q": _persistent,
    b"R": _call(2),
    b"\x81": _call(2),
    b"\x92": _call(3),
    b"b": _build,
    b"c": _global,
    b"\x93": _stack_global,
    b"i": _instance,
    b"o": _marked_object,
    b"]": _constant(lambda: OPAQUE),
    b"\x8f": _constant(lambda: OPAQUE),
    b"}": _constant(dict),
    b")": _constant(tuple),
    b"a": _drop,
    b"e": _drop_marked,
    b"\x90": _drop_marked,
    b"l": _marked_opaque,
    b"\x91": _marked_opaque,
    b"d": _marked_dict,
    b"s": _set_item,
    b"u": _set_items,
    b"t": _marked_tuple,
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"p": _put_line,
    b"q": _put(1),
    b"r": _put(4),
    b"\x94": _memoize,
    b"g": _get_line,
    b"h": _get(1),
    b"j": _get(4),
    b"\x80": _skipped(1),
    b"\x95": _skipped(8),
    b"\x82": _skipped(1, push=True),
    b"\x83": _skipped(2, push=True),
    b"\x84": _skipped(4, push=True),
    b"\x97": _constant(lambda: OPAQUE),
    b"\x98": _nothing,
}
STEPS: list[Step | None] = [_BY_OPCODE.get(bytes([code])) for code in range(256)]
