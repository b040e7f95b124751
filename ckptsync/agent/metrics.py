"""The board as metrics, in Prometheus' formats. Names and units are kept; a metric is added, never renamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ckptsync.agent.board import Board, State, Status
from ckptsync.agent.derived import Ages, ages
from ckptsync.agent.notice import Source


class Exposition:
    """Writes the metrics of a board, from a registry of its own."""

    def __init__(self, board: Board) -> None:
        """Take a board; it is read at every call."""
        self._registry = CollectorRegistry()
        self._registry.register(_Collector(board))

    def write(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics as they are now, and their content type.

        Args:
            accept: the header of that name; chooses between Prometheus' text and OpenMetrics.
        """
        encode: Callable[[CollectorRegistry], bytes]
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _Collector(Collector):
    """Makes metrics of a status."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        """Yield every metric; one that is not known is left out."""
        status = self._board.status
        known = ages(status, self._board.clock.now())
        yield from _of_commits(status, known)
        yield from _of_uploads(status, known)
        yield from _of_the_agent(status)


def _gauge(name: str, told: str, value: float | None) -> Iterator[Metric]:
    """Yield a gauge, unless its value is not known."""
    if value is not None:
        yield GaugeMetricFamily(f"ckptsync_{name}", told, value=value)


def _counter(name: str, told: str, value: float) -> Iterator[Metric]:
    """Yield a counter; `_total` is added to its name."""
    yield CounterMetricFamily(f"ckptsync_{name}", told, value=value)


def _of_commits(status: Status, known: Ages) -> Iterator[Metric]:
    """What is durable."""
    newest = status.newest
    yield from _gauge("newest_step", "Training step of the newest committed snapshot.", newest.step if newest else None)
    yield from _gauge("newest_bytes", "Size of the newest committed snapshot.", newest.bytes if newest else None)
    yield from _gauge(
        "last_commit_timestamp_seconds", "When the newest snapshot was committed.", newest.at_s if newest else None
    )
    yield from _gauge("since_last_commit_seconds", "Age of the newest committed snapshot.", known.since_commit_s)
    yield from _gauge("rpo_seconds", "Work of so many seconds would be lost now.", known.rpo_s)
    yield from _counter("committed_snapshots", "Snapshots that this agent committed.", status.commits)
    yield from _counter("failed_snapshots", "Saves that failed; each is tried again.", status.failures)


def _of_uploads(status: Status, known: Ages) -> Iterator[Metric]:
    """What is on its way."""
    yield from _gauge("pending_checkpoints", "Whole checkpoints that are not durable yet.", status.pending)
    yield from _gauge("pending_bytes", "Payload of those that is not in the bucket yet.", status.pending_bytes)
    yield from _gauge("pending_age_seconds", "Since the oldest of them was whole; 0 without any.", known.pending_s or 0)
    yield from _gauge("waiting_checkpoints", "Checkpoints that are not whole.", len(status.waiting))
    yield from _gauge("upload_rate_bytes_per_second", "Payload sent a second, of late.", status.bytes_per_s)
    yield from _counter("sent_bytes", "Payload sent.", status.bytes_sent)
    yield from _counter("retries", "Requests that were tried again.", status.retries)


def _of_the_agent(status: Status) -> Iterator[Metric]:
    """What it does, and what it was told."""
    yield from _gauge("start_timestamp_seconds", "When the agent began.", status.started_s)
    yield from _gauge("epoch", "Which writer of the run this agent is.", status.epoch)
    yield from _gauge("fenced", "Whether a newer writer owns the run.", status.fenced)
    yield from _gauge("failing", "Whether the last save failed.", status.failing)
    states = GaugeMetricFamily("ckptsync_state", "What the agent does: 1 for that, 0 for the rest.", labels=["state"])
    for state in State:
        states.add_metric([state.value], status.state is state)
    yield states
    notices = CounterMetricFamily(
        "ckptsync_preemption_notices", "Notices that this machine may end.", labels=["source"]
    )
    for source in dict.fromkeys([*map(str, Source), *status.notices_by_source]):
        notices.add_metric([source], status.notices_by_source.get(source, 0))
    yield notices
    build = GaugeMetricFamily("ckptsync_build_info", "Always 1; the version is a label.", labels=["version"])
    build.add_metric([status.version], 1)
    yield build
