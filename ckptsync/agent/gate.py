"""A bucket into which no new data may begin to go once the gate is shut: how an upload is stopped between two parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ckptsync.errors import NotDurableError
from ckptsync.snapshot import layout
from ckptsync.store.base import Store, StoreWrapper

T = TypeVar("T")
_DATA_VERBS = frozenset({"begin", "put_part", "copy_part", "copy"})


class Gate(StoreWrapper):
    """Refuses requests that carry data, from the moment it is shut. Those under way end; what is whole by then may be committed."""

    def __init__(self, inner: Store) -> None:
        """Be open."""
        super().__init__(inner)
        self._why = ""

    @property
    def is_shut(self) -> bool:
        """Whether it is."""
        return bool(self._why)

    def shut(self, why: str) -> None:
        """Let no more data begin, for a reason that is a sentence. Safe to call again."""
        self._why = why

    def open(self) -> None:
        """Let data pass again. Safe to call again."""
        self._why = ""

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """As the inner store's.

        Raises:
            NotDurableError: the gate is shut, and it carries data.
        """
        if self._why and (verb in _DATA_VERBS or (verb == "put" and key.startswith(layout.DATA))):
            raise NotDurableError(self._why)
        return super().around(verb, key, request)
