"""The metadata services where clouds have them, 169.254.169.254, without a word in the environment: `make test-link-local`."""

from __future__ import annotations

import logging
import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.namespace import METADATA, Network, network, why_not
from support.waiting import LONG_S, wait_until

from ckptsync.agent import watching as watching_module
from ckptsync.agent.notice import Notice, Source
from ckptsync.agent.watching import watching
from ckptsync.options import Agent
from ckptsync.testing.metadata import MetadataServer

OFF_S = 5.0
NOWHERE: dict[str, str] = {}

pytestmark = pytest.mark.skipif(bool(why := why_not()), reason=why)


@pytest.fixture(autouse=True)
def _nobodys_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` asks the firmware first, and these tests may themselves run on a cloud."""
    monkeypatch.setattr(watching_module, "_VENDOR", tmp_path / "sys_vendor")


@pytest.fixture
def net() -> Iterator[Network]:
    with network() as made:
        yield made


@contextmanager
def serving(net: Network, *clouds: str) -> Iterator[MetadataServer]:
    """A service at the true address."""
    net.have_metadata_address()
    server = net.call(lambda: MetadataServer(METADATA, 80, clouds=clouds))
    with server:
        yield server


def hear(net: Network, notices: str, is_heard: Callable[[queue.Queue[Notice]], None]) -> None:
    """Watch inside, with nothing in the environment, for as long as something is done."""

    def work() -> None:
        told: queue.Queue[Notice] = queue.Queue()
        with watching(Agent(notices=notices), told.put, environ=NOWHERE, signals=False):
            is_heard(told)

    net.call(work)


@pytest.mark.req(6)
@pytest.mark.parametrize("notices", ["auto", "gce", "ec2,gce"])
def test_compute_engine_is_found_and_heard_in_less_than_a_second(net: Network, notices: str) -> None:
    with serving(net, "gce") as server:

        def is_heard(told: queue.Queue[Notice]) -> None:
            wait_until(lambda: any("preempted?wait_for_change" in request for request in server.requests))
            begun_s = time.monotonic()
            server.preempt()
            notice = told.get(timeout=LONG_S)
            took_s = time.monotonic() - begun_s
            sys.stderr.write(f"\n{notices}: {took_s:.3f} s until it was heard\n")
            assert took_s < 1.0
            assert (notice.source, notice.kind) == (Source.GCE, "preempted")

        hear(net, notices, is_heard)


@pytest.mark.req(6, 36)
@pytest.mark.parametrize("notices", ["auto", "ec2"])
def test_ec2_is_found_and_heard(net: Network, notices: str) -> None:
    with serving(net, "ec2") as server:

        def is_heard(told: queue.Queue[Notice]) -> None:
            wait_until(lambda: any("instance-action" in request for request in server.requests))
            begun_s = time.monotonic()
            server.interrupt(left_s=120)
            notice = told.get(timeout=LONG_S)
            assert time.monotonic() - begun_s < 2.5
            assert (notice.source, notice.kind) == (Source.EC2, "terminate")
            assert notice.deadline_s == pytest.approx(begun_s + 120, abs=3)

        hear(net, notices, is_heard)
        assert server.requests.index("PUT /latest/api/token") < next(
            at for at, request in enumerate(server.requests) if "instance-action" in request
        )


@pytest.mark.req(36)
@pytest.mark.parametrize("there", ["nobody listens", "no way there", "nobody answers", "another service answers"])
def test_without_the_service_each_source_is_off_soon_with_one_line(
    there: str, net: Network, caplog: pytest.LogCaptureFixture
) -> None:
    if there == "nobody answers":
        net.swallow_metadata_address()
    elif there == "nobody listens":
        net.have_metadata_address()

    def is_heard(told: queue.Queue[Notice]) -> None:
        begun_s = time.monotonic()
        wait_until(lambda: len(caplog.messages) >= 2)
        took_s = time.monotonic() - begun_s
        sys.stderr.write(f"\n{there}: off after {took_s:.3f} s\n")
        assert took_s < OFF_S
        assert told.empty()

    with caplog.at_level(logging.INFO, "ckptsync"):
        if there == "another service answers":
            with serving(net):  # as on a cloud that is neither of the two
                hear(net, "ec2,gce", is_heard)
        else:
            hear(net, "ec2,gce", is_heard)
    assert sorted(message.partition(":")[0] for message in caplog.messages) == [
        "not watching Compute Engine's notices",
        "not watching EC2's notices",
    ]
