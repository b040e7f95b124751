"""The plain values of a pickle, read from its opcodes: nothing is imported, called or made of what it names.

What is kept is shallow: the numbers and texts of dictionaries, and of the arguments of what is watched. All else is `OPAQUE`.

Source: https://github.com/python/cpython/blob/3.13/Lib/pickletools.py
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from ckptsync.readiness.opcodes import STEPS, Machine, Watch


class PickleError(Exception):
    """These bytes are no pickle, or are cut short."""


def _ignore(what: object, argument: object) -> None:
    """Watch nothing."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """A pickle.

    Attributes:
        value: a number, a text, a dictionary of those, or `OPAQUE`.
        end: offset behind its last byte.
    """

    value: object
    end: int

    @property
    def mapping(self) -> Mapping[str, object]:
        """The value when it is a dictionary; else an empty one."""
        return self.value if isinstance(self.value, dict) else {}


def scan(data: bytes, begin: int = 0, *, watch: Watch = _ignore) -> Scanned:
    """Read one pickle; takes time and memory in proportion to its bytes.

    Args:
        data: holds it.
        begin: offset of its first byte.
        watch: is told of each object that gets a state (an `Instance`, and the state), and of each persistent id (None, and the id).

    Raises:
        PickleError: it is cut short or makes no sense.
    """
    machine = Machine(data, begin, watch)
    try:
        while (step := STEPS[data[machine.at]]) is not None:
            machine.at += 1
            step(machine)
            if machine.is_done:
                return Scanned(machine.stack.pop(), machine.at)
    except (IndexError, KeyError, ValueError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise PickleError(f"is cut short or damaged ({type(error).__name__})") from error
    raise PickleError("is damaged (unknown opcode)")
