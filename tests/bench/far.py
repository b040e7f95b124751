"""Where the time of a save and a restore goes, far away: before the first part, while parts move, after the last.

Requests that wait for each other cost a delay each, whatever the size of the checkpoint; parts move side by side.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, TypeVar
from unittest.mock import patch

from bench import processes, suite
from bench.measure import Place, environment
from bench.peers import Cloud
from bench.shapes import SHAPES
from ckptsync.config import resolve
from ckptsync.options import Config
from ckptsync.run import open_run, run_on
from ckptsync.store.base import Store, StoreWrapper
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

T = TypeVar("T")

PHASES = ("before", "parts", "after")
"""Until the first part is asked for, until the last is there, until the verb returns."""
_DATA = "data/"
_PEER = "obstore"


class _Watched(StoreWrapper):
    """Notes when the first part is asked for and when the last is there."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.first_s, self.last_s = float("inf"), 0.0

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        began_s = time.monotonic()
        try:
            return request()
        finally:
            if verb in {"put_part", "get"} and key.startswith(_DATA):
                with self._lock:
                    self.first_s, self.last_s = min(self.first_s, began_s), max(self.last_s, time.monotonic())


def measured(clouds: Sequence[Cloud], rounds: int) -> list[dict[str, Any]]:
    """Seconds of each of `PHASES`, medians, for each cloud, delay and direction."""
    return [row for cloud in clouds for shape in SHAPES if shape.delay_s for row in _over(cloud, shape, rounds)]


def _over(cloud: Cloud, shape: suite.Shape, rounds: int) -> Iterator[dict[str, Any]]:
    """One delay, both ways."""
    found: dict[str, list[list[float]]] = {"put": [], "get": []}
    with suite.placed(shape.size, shape) as place, patch.dict(os.environ, environment(cloud, place)):
        for number in range(rounds + 1):
            processes.ask(place.sink.ports["http"], "/-/reset")
            for direction, spans in _once(cloud, place, number):
                if number:  # the first one warms up
                    found[direction].append(spans)
    for direction, all_spans in found.items():
        seconds = [round(median(column), 3) for column in zip(*all_spans, strict=True)]
        yield {
            "cloud": cloud,
            "shape": shape.name,
            "size": shape.size,
            "direction": direction,
            **dict(zip(PHASES, seconds, strict=True)),
        }


def _once(cloud: Cloud, place: Place, number: int) -> Iterator[tuple[str, list[float]]]:
    """Save and restore; the second save of a run, since the first proves besides that conditions are honoured."""
    service = {"endpoint_url": place.endpoint, **({"anonymous": True} if cloud == "gcs" else {})}
    config = resolve({"state_dir": str(place.folder / "state"), cloud: service})
    url, target = f"{'s3' if cloud == 's3' else 'gs'}://bench/far-{number}", place.folder / "fetched"
    tiny = place.folder / "tiny"
    tiny.write_bytes(b"1")
    _phases(url, config, lambda run: save(run, tiny, step=1))
    yield "put", _phases(url, config, lambda run: save(run, place.blob, step=2))
    yield "get", _phases(url, config, lambda run: restore(run, target))
    shutil.rmtree(place.folder / "state")
    target.unlink()


def _phases(url: str, config: Config, work: Callable[[Any], object]) -> list[float]:
    """Run a verb as a process does that has done nothing before; seconds of each phase."""
    began_s = time.monotonic()
    with open_run(url, config, observer=lambda _: None) as opened:
        watched = _Watched(opened.store)
        work(run_on(watched, config, observer=lambda _: None))
    ended_s = time.monotonic()
    return [after - before for before, after in pairwise((began_s, watched.first_s, watched.last_s, ended_s))]


def table(rows: Sequence[Mapping[str, Any]], rates: Mapping[tuple[str, str], Mapping[str, Any]]) -> Iterator[str]:
    """Lines of the page.

    Args:
        rows: as `measured` has them.
        rates: medians by cloud and shape, each by client and direction.
    """
    yield f"| | {' | '.join(f'{phase}, s' for phase in ('before the parts', 'parts', 'after them'))} | `{_PEER}`, all of it, s |"
    yield "|---|--:|--:|--:|--:|"
    for row in rows:
        peer = rates.get((row["cloud"], row["shape"]), {}).get(_PEER)
        theirs = f"{row['size'] / 1e6 / peer[row['direction']]['rate']:.2f}" if peer else "-"
        name = f"{'S3' if row['cloud'] == 's3' else 'GCS'}, {row['shape']}, {'save' if row['direction'] == 'put' else 'restore'}"
        yield f"| {name} | {' | '.join(f'{row[phase]:.2f}' for phase in PHASES)} | {theirs} |"
    yield ""
