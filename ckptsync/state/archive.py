"""A state as the file that `torch.save` writes and `torch.load` reads, without a second copy of its tensors."""

from __future__ import annotations

import ctypes
import io
import pickle
import sys
from bisect import bisect_right
from collections.abc import Sequence
from typing import IO, Any, cast

import torch

from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.state.savable import first_line, not_plain


class _Buffer(ctypes.Structure):
    """CPython's `Py_buffer`, as https://docs.python.org/3/c-api/buffer.html has it."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    )


def _address(view: memoryview) -> int:
    """Where a view's memory begins."""
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(found), 0)
    try:
        return found.buf or 0
    finally:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))


class _Pieces:
    """A file that is written to: keeps views of memory that stays, and copies of all else."""

    def __init__(self, staying: Sequence[torch.Tensor]) -> None:
        self.found: list[memoryview] = []
        self._spans = sorted((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in staying)
        self._small = bytearray()

    def write(self, data: Any) -> int:
        """Take what is written."""
        view = memoryview(data).cast("B")
        if self._stays(_address(view), len(view)):
            self.flush()
            self.found.append(view)
        else:
            self._small += view
        return len(view)

    def _stays(self, address: int, size: int) -> bool:
        """Whether memory is some that stays."""
        number = bisect_right(self._spans, (address, sys.maxsize)) - 1
        return number >= 0 and address + size <= self._spans[number][1]

    def flush(self) -> None:
        """Close the piece that is being copied."""
        if self._small:
            self.found.append(memoryview(bytes(self._small)))
            self._small = bytearray()


def pieces_of(state: Any, staying: Sequence[torch.Tensor] = ()) -> list[memoryview]:
    """Return the file that `torch.save` makes of a state, in pieces.

    Args:
        state: what `torch.save` takes.
        staying: memory that is there, and unchanged, for as long as the pieces are: what lies in it is not copied.

    Raises:
        ConfigError: something in the state cannot be pickled.
    """
    pieces = _Pieces(staying)
    try:
        torch.save(state, cast("IO[bytes]", pieces))
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"the state cannot be saved: {first_line(error)}") from error
    pieces.flush()
    return pieces.found


class _Content(io.RawIOBase):
    """A file that is read, and lies in memory."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, into: Any) -> int:
        piece = self._content[self._at : self._at + len(into)]
        memoryview(into).cast("B")[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def check_device(device: Any) -> None:
    """Make sure that a device that is named has a name that torch knows.

    Raises:
        ConfigError: it has none.
    """
    try:
        torch.device(device if isinstance(device, str) else "cpu")
    except RuntimeError as error:
        raise ConfigError(f"{device!r} is no device: {first_line(error)}") from error


def load(content: memoryview, *, name: str, map_location: Any = None, weights_only: bool = True) -> Any:
    """Return the state that a file holds. Its content must have been verified before.

    Args:
        content: the file.
        name: of the item, for errors.
        map_location: as in `torch.load`.
        weights_only: as in `torch.load`; False lets a pickle run whatever code it names.

    Raises:
        ConfigError: it holds more than `weights_only` allows, or tensors of a device that is not here, or `map_location` is none.
        IntegrityError: it is no file of `torch.save`.
    """
    check_device(map_location)
    try:
        return torch.load(cast("IO[bytes]", _Content(content)), map_location=map_location, weights_only=weights_only)
    except pickle.UnpicklingError as error:
        if not weights_only:
            raise IntegrityError(f"{name} cannot be read: {first_line(error)}") from error
        raise ConfigError(
            f"{name} holds more than tensors and plain values, and was not loaded; pass weights_only=False if you trust "
            f"whoever wrote it ({not_plain(error)})"
        ) from error
    except (RuntimeError, EOFError) as error:
        reason = first_line(error)
        if "map_location" in str(error):  # torch has no class of its own for this
            raise ConfigError(
                f"{name} holds tensors of a device that is not here; pass map_location='cpu' ({reason})"
            ) from error
        raise IntegrityError(f"{name} cannot be read: {reason}") from error
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        if not weights_only:  # code that the pickle named may have raised it
            raise
        raise IntegrityError(f"{name} cannot be read: it makes no sense ({type(error).__name__})") from error
