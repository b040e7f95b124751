"""Looks at a directory without a pause while a framework writes to it, and takes every checkpoint at the moment it is called whole."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from ckptsync.readiness.base import Ready
from ckptsync.readiness.recognise import Looked, Recogniser


class Watching:
    """Copies what it takes to a folder of its own; `taken` tells which, and `behind` where to.

    What changes while it is copied is left out, as an upload would be refused then.
    """

    def __init__(self, folder: Path, behind: Path) -> None:
        self.taken: list[tuple[Ready, Path]] = []
        self.waiting: set[str] = set()
        self._folder, self._behind = folder, behind
        self._recogniser = Recogniser(folder)
        self._seen: set[object] = set()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(60)
        if self._failure is not None and error is None:
            raise self._failure
        self._look()  # the last one, at rest

    def _watch(self) -> None:
        try:
            while not self._stop.is_set():
                self._look()
        except BaseException as failure:  # noqa: BLE001  raised where the test waits
            self._failure = failure

    def _look(self) -> None:
        looked = self._recogniser.look(time.time())
        self.waiting.update(looked.waiting)
        for ready in looked.checkpoints:
            mark = (ready.name, _mark(looked, ready))
            if mark in self._seen:
                continue
            self._seen.add(mark)
            place = self._behind / str(len(self._seen))
            if self._copied(looked, ready, place):
                self.taken.append((ready, place))

    def _copied(self, looked: Looked, ready: Ready, place: Path) -> bool:
        """Copy a checkpoint; whether nothing changed meanwhile."""
        try:
            for path in ready.paths:
                target = place / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self._folder / path, target, follow_symlinks=False)
            return all(file.is_still(file.location.stat()) for file in looked.tree.files if file.path in ready.paths)
        except FileNotFoundError:
            return False


def _mark(looked: Looked, ready: Ready) -> object:
    return frozenset((file.path, file.identity) for file in looked.tree.files if file.path in ready.paths)
