"""Notices of a metadata service that plays EC2 and Compute Engine as strictly as they are."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.waiting import wait_until

from ckptsync.agent.ec2 import Ec2Watcher
from ckptsync.agent.metadata import Service
from ckptsync.agent.notice import Notice, Source
from ckptsync.agent.watching import watching
from ckptsync.options import Agent
from ckptsync.testing.metadata import MetadataServer

LONG_S = 20.0
NOBODY = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1", "GCE_METADATA_HOST": "127.0.0.1:1"}


@pytest.fixture
def server() -> Iterator[MetadataServer]:
    with MetadataServer() as found:
        yield found


@contextmanager
def listening(server: MetadataServer, notices: str) -> Iterator[queue.Queue[Notice]]:
    """Watch, from the moment on at which the service was asked for the first time."""
    told: queue.Queue[Notice] = queue.Queue()
    with watching(Agent(notices=notices), told.put, environ=server.environ):
        needle = {"ec2": "instance-action", "gce": "wait_for_change"}[notices]
        wait_until(lambda: any(needle in request for request in server.requests))
        yield told


@pytest.mark.req(6)
def test_compute_engine_is_heard_in_less_than_a_second(server: MetadataServer) -> None:
    with listening(server, "gce") as told:
        begun_s = time.monotonic()
        server.preempt()
        notice = told.get(timeout=LONG_S)
        assert time.monotonic() - begun_s < 1.0
        assert (notice.source, notice.kind, notice.final) == (Source.GCE, "preempted", True)
        assert notice.deadline_s == pytest.approx(begun_s + 30, abs=2)
        server.maintain("MIGRATE_ON_HOST_MAINTENANCE")
        assert not told.get(timeout=LONG_S).final
        server.maintain()
        assert told.get(timeout=LONG_S).final
        assert told.empty()


@pytest.mark.req(6, 36)
def test_ec2_is_heard_soon_and_never_without_a_token(server: MetadataServer) -> None:
    with listening(server, "ec2") as told:
        server.rebalance()
        advice = told.get(timeout=LONG_S)
        assert (advice.kind, advice.final, advice.deadline_s) == ("rebalance", False, None)
        server.expire_tokens()
        begun_s = time.monotonic()
        server.interrupt(left_s=120, action="stop")
        notice = told.get(timeout=LONG_S)
        assert time.monotonic() - begun_s < 2.5
        assert (notice.source, notice.kind, notice.final) == (Source.EC2, "stop", True)
        assert notice.deadline_s == pytest.approx(begun_s + 120, abs=3)
        asked = len(server.requests)
        wait_until(lambda: len(server.requests) >= asked + 4)
        assert told.empty()
    assert server.requests[0] == "PUT /latest/api/token"


@pytest.mark.req(36)
def test_away_from_the_cloud_each_source_ends_soon_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    begun_s = time.monotonic()
    with caplog.at_level(logging.INFO), watching(Agent(notices="ec2,gce"), print, environ=NOBODY):
        wait_until(lambda: len(caplog.messages) >= 2)
        assert time.monotonic() - begun_s < 5
    assert sorted(message.partition(":")[0] for message in caplog.messages) == [
        "not watching Compute Engine's notices",
        "not watching EC2's notices",
    ]


@pytest.mark.req(36)
def test_what_the_environment_forbids_is_said(server: MetadataServer, caplog: pytest.LogCaptureFixture) -> None:
    forbids = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}
    with caplog.at_level(logging.INFO), watching(Agent(notices="auto"), print, environ={**server.environ, **forbids}):
        pass
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "AWS_EC2_METADATA_DISABLED forbids to ask",
        "NO_GCE_CHECK forbids to ask",
    ]
    assert not server.requests


@pytest.mark.req(36)
def test_a_hop_limit_that_is_too_small_is_said(server: MetadataServer, caplog: pytest.LogCaptureFixture) -> None:
    server.hops_too_few = True
    begun_s = time.monotonic()
    with caplog.at_level(logging.INFO), watching(Agent(notices="ec2"), print, environ=server.environ):
        wait_until(lambda: caplog.messages)
        assert time.monotonic() - begun_s < 5
    assert len(caplog.messages) == 1
    assert "hop limit" in caplog.text


def test_each_cloud_is_told_from_the_other(caplog: pytest.LogCaptureFixture) -> None:
    for cloud, other in (("ec2", "Compute Engine"), ("gce", "EC2")):
        caplog.clear()
        with (
            MetadataServer(clouds=(cloud,)) as server,
            caplog.at_level(logging.INFO),
            watching(Agent(notices="ec2,gce"), print, environ=server.environ),
        ):
            wait_until(lambda: caplog.messages)
        assert len(caplog.messages) == 1
        assert other in caplog.messages[0]
        assert "hop limit" not in caplog.text


def test_a_service_that_comes_and_goes_is_asked_again(server: MetadataServer) -> None:
    service = Service.at(server.address)
    watcher = Ec2Watcher(service, poll_s=0.01)
    told: queue.Queue[Notice] = queue.Queue()
    watcher._renew()
    watcher._look(told.put)
    server.expire_tokens()
    watcher._look(told.put)
    server.interrupt()
    watcher._look(told.put)
    assert told.get_nowait().kind == "terminate"
    server.close()
    watcher._look(told.put)
    assert told.empty()


def test_it_runs_as_a_program_and_takes_orders() -> None:
    command = [sys.executable, "-m", "ckptsync.testing.metadata", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            order = urllib.request.Request(f"http://{address}/control", data=b'{"preempt": true}', method="POST")
            with urllib.request.urlopen(order, timeout=LONG_S) as answer:  # noqa: S310
                assert answer.read() == b"done"
            answer = Service.at(address).ask(
                "/computeMetadata/v1/instance/preempted", fields={"Metadata-Flavor": "Google"}
            )
            assert answer.text == "TRUE"
            assert Service.at(address).ask("/computeMetadata/v1/instance/preempted").status == 403
        finally:
            process.kill()
