"""What the status port answers, and to whom."""

from __future__ import annotations

import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from support.status_port import Served

from ckptsync.agent import server
from ckptsync.agent.board import Board, Committed, State
from ckptsync.agent.history import Known
from ckptsync.agent.notice import Notice, Source
from ckptsync.agent.port import status_port
from ckptsync.agent.routes import Site
from ckptsync.cli.main import cli
from ckptsync.errors import ConfigError, FencedError
from ckptsync.events import Event, Kind
from ckptsync.options import Config
from ckptsync.testing.clock import FakeClock


def samples(text: str) -> dict[str, float]:
    """Values by name, with the labels behind it."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name + "".join(f" {value}" for value in sample.labels.values())] = sample.value
    return found


def commit(board: Board, step: int = 7) -> None:
    made = Committed(snapshot="id", step=step, bytes=10, at_s=990.0)
    board.committed(made, epoch=3, whole_since_s=980.0)


# -- what it tells -------------------------------------------------------------------------------------------------------


@pytest.mark.req(3, 4)
def test_metrics_tell_what_the_board_shows(served: Served, board: Board, clock: FakeClock) -> None:
    commit(board)
    board.observe(Event(kind=Kind.SENT, bytes=100))
    board.observe(Event(kind=Kind.RETRY))
    board.failed("no route")
    board.noticed(Notice(source=Source.EC2, kind="terminate", final=True, deadline_s=None, message="the end"))
    board.change(pending=2, pending_bytes=500, pending_since_s=995.0, waiting=("a",))
    board.entered(State.UPLOADING)
    clock.advance(5)
    with served() as port:
        got = port.ask("/metrics")
    told = samples(got.body)
    assert got.headers["Content-Type"].startswith("text/plain")
    assert {name.removeprefix("ckptsync_"): value for name, value in told.items() if value} == {
        "newest_step": 7,
        "newest_bytes": 10,
        "last_commit_timestamp_seconds": 990,
        "since_last_commit_seconds": 15,
        "rpo_seconds": 25,
        "committed_snapshots_total": 1,
        "failed_snapshots_total": 1,
        "pending_checkpoints": 2,
        "pending_bytes": 500,
        "pending_age_seconds": 10,
        "waiting_checkpoints": 1,
        "upload_rate_bytes_per_second": 20,
        "sent_bytes_total": 100,
        "retries_total": 1,
        "start_timestamp_seconds": 1000,
        "epoch": 3,
        "failing": 1,
        "state uploading": 1,
        "preemption_notices_total ec2": 1,
        "build_info 1.2": 1,
    }
    assert told["ckptsync_fenced"] == told["ckptsync_preemption_notices_total gce"] == 0
    assert {name for name in told if name.startswith("ckptsync_state")} == {f"ckptsync_state {one}" for one in State}


def test_metrics_leave_out_what_is_not_known(served: Served) -> None:
    with served() as port:
        told = samples(port.ask("/metrics").body)
    assert not {"ckptsync_newest_step", "ckptsync_since_last_commit_seconds", "ckptsync_epoch"} & told.keys()
    assert told["ckptsync_rpo_seconds"] == told["ckptsync_pending_age_seconds"] == 0


def test_metrics_come_as_openmetrics_too(served: Served) -> None:
    with served() as port:
        got = port.ask("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert got.headers["Content-Type"].startswith("application/openmetrics-text")
    assert got.body.endswith("# EOF\n")


def test_health_ends_with_a_thread_or_for_good(served: Served, board: Board) -> None:
    with served() as port:
        assert (port.ask("/healthz").status, port.ask("/healthz").body) == (200, "ok\n")
        port.alive = False
        assert port.ask("/healthz").status == 503
        board.entered(State.DONE)  # its threads may end then
        assert port.ask("/healthz").status == 200
        port.alive = True
        board.failed(FencedError("epoch 4 took over"))
        board.entered(State.FENCED)
        assert (port.ask("/healthz").status, port.ask("/healthz").body) == (503, "fenced: epoch 4 took over\n")


@pytest.mark.parametrize("state", State)
def test_it_is_ready_while_it_takes_checkpoints(served: Served, board: Board, state: State) -> None:
    board.entered(state)
    with served() as port:
        assert port.ask("/readyz").status == (200 if state in {State.WATCHING, State.UPLOADING} else 503)


def test_a_failing_bucket_is_no_reason_for_a_restart(served: Served, board: Board) -> None:
    board.failed("503")
    with served() as port:
        assert port.ask("/healthz").status == 200


def test_status_has_the_ages_and_no_secret(served: Served, board: Board, clock: FakeClock) -> None:
    commit(board)
    clock.advance(2)
    with served() as port:
        got = port.ask("/status.json")
    told = got.json
    assert (told["now_s"], told["since_commit_s"], told["rpo_s"], told["pending_s"]) == (1002, 12, 22, None)
    assert (told["state"], told["newest"]["step"], told["alive"]) == ("starting", 7, True)
    assert "secret" not in got.body


def test_history_is_told_as_it_is_known(served: Served) -> None:
    with served() as port:
        assert port.ask("/history.json").json["at_s"] is None
        port.known = Known(snapshots=({"snapshot": "id"},), at_s=5.0, more=True, problem="no route")
        assert port.ask("/history.json").json == {**asdict(port.known), "snapshots": [{"snapshot": "id"}]}


def test_every_file_that_the_page_names_is_there(served: Served) -> None:
    with served() as port:
        page = port.ask("/").body
        named = set(re.findall(r'(?:src|href)="(?!#)([^"]+)"', page))
        scripts = {name for name in named if name.endswith(".js")}
        while scripts:
            found = set(re.findall(r'from "\./([^"]+)"', port.ask(f"/{scripts.pop()}").body)) - named
            named |= found
            scripts |= found
        answers = {name: port.ask(f"/{name}").status for name in named}
    assert {"page.css", "page.js", "figures.js", "words.js", "icon.svg", "metrics"} <= named
    assert {name for name, status in answers.items() if status != 200} == {"readyz"}  # it is starting
    assert "://" not in page


# -- to whom -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/metrics", "/status.json", "/nowhere", "/drain"])
def test_every_answer_is_guarded(served: Served, path: str) -> None:
    with served() as port:
        headers = port.ask(path).headers
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
    assert not {"access-control-allow-origin", "server"} & {name.lower() for name in headers}


def test_this_machine_may_drain_by_post_alone(served: Served) -> None:
    with served() as port:
        for method in ("GET", "PUT", "OPTIONS"):
            refused = port.ask("/drain", method=method)
            assert (refused.status, refused.headers["Allow"]) == (405, "POST")
        assert not port.drains
        assert port.ask("/drain", method="POST").status == 202
        assert len(port.drains) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
        {"Host": "localhost.evil.example"},
        {"Host": "[::1"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
        {"Authorization": "Bearer guess"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
    ],
)
def test_neither_another_site_nor_a_proxy_may_drain(served: Served, headers: dict[str, str]) -> None:
    with served() as port:
        assert port.ask("/drain", method="POST", headers=headers).status == 403
        assert not port.drains


def test_the_page_itself_might_drain(served: Served) -> None:
    with served() as port:
        own = f"localhost:{port.number}"
        headers = {"Host": own, "Origin": f"http://{own}", "Sec-Fetch-Site": "same-origin"}
        assert port.ask("/drain", method="POST", headers=headers).status == 202


def test_the_token_drains_from_anywhere(served: Served) -> None:
    from_far = {"X-Forwarded-For": "203.0.113.7", "Host": "agent.example"}
    with served(token="gr\u00fcn") as port:
        asked = port.ask("/drain", method="POST", headers=from_far)
        assert (asked.status, asked.headers["WWW-Authenticate"]) == (401, 'Bearer realm="ckptsync"')
        for wrong in ("Bearer blau", "Basic gr\u00fcn", "Bearer", "gr\u00fcn"):
            headers = {**from_far, "Authorization": wrong.encode().decode("latin-1")}
            assert port.ask("/drain", method="POST", headers=headers).status == 403
        assert not port.drains
        headers = {**from_far, "Authorization": "Bearer gr\u00fcn".encode().decode("latin-1")}
        assert port.ask("/drain", method="POST", headers=headers).status == 202


@pytest.mark.parametrize(("peer", "status"), [("127.0.0.1", 202), ("::1", 202), ("10.0.0.9", 403), ("127.0.0.6", 403)])
def test_another_machine_may_not_drain_without_a_token(board: Board, peer: str, status: int) -> None:
    site = Site(board, drain=lambda: None, history=Known, token=None, host="0.0.0.0", alive=lambda: True)  # noqa: S104
    answered: list[str] = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/drain", "REMOTE_ADDR": peer, "HTTP_HOST": "127.0.0.1:80"}
    site(environ, lambda line, _headers, _error=None: answered.append(line))  # type: ignore[arg-type,return-value]
    assert answered[0].startswith(str(status))


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:9", 200), ("[::1]:9", 200), ("10.1.2.3:9", 200), ("evil.example", 421)],
)
def test_a_name_that_was_made_to_stand_for_this_machine_reads_nothing(served: Served, host: str, status: int) -> None:
    with served() as port:
        assert port.ask("/status.json", headers={"Host": host}).status == status


@pytest.mark.parametrize(
    "path", ["/nowhere", "/../server.py", "/page/../../server.py", "/%2e%2e/routes.py", "//etc/passwd"]
)
def test_nothing_else_is_there(served: Served, path: str) -> None:
    with served() as port:
        assert port.ask(path).status == 404


def test_head_has_no_body_and_nothing_else_reads(served: Served) -> None:
    with served() as port:
        head = port.ask("/status.json", method="HEAD")
        assert (head.status, head.body, int(head.headers["Content-Length"]) > 100) == (200, "", True)
        assert port.ask("/status.json", method="POST").status == 405


# -- limits --------------------------------------------------------------------------------------------------------------


def answer_to(number: int, *pieces: bytes) -> bytes:
    """What comes back for raw bytes, until the port hangs up."""
    got = b""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", number), timeout=30) as peer:
        for piece in pieces:
            peer.sendall(piece)
        while piece := peer.recv(65536):
            got += piece
    return got


def test_large_requests_are_refused(served: Served) -> None:
    start = b"POST /drain HTTP/1.0\r\nHost: localhost\r\n"
    with served() as port:
        assert b" 413 " in answer_to(port.number, start + b"Content-Length: 2000\r\n\r\n")
        chunked = start.replace(b"1.0", b"1.1") + b"Transfer-Encoding: chunked\r\n\r\n"
        assert b" 202 " not in answer_to(port.number, chunked, b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")
        assert b" 202 " not in answer_to(port.number, start + b"X: " + b"x" * 20_000 + b"\r\n\r\n")
        assert not port.drains


def test_who_sends_a_request_slowly_is_hung_up_on(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 1.0)
    monkeypatch.setattr(server, "_TURN_S", 0.05)
    with served() as port, socket.create_connection(("127.0.0.1", port.number), timeout=10) as slow:
        slow.settimeout(10)
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.02):
                try:
                    slow.send(b"X")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        begun_s = time.monotonic()
        try:
            assert _hung_up(slow)
        finally:
            ended.set()
            dripping.join()
        assert time.monotonic() - begun_s < 8
        assert port.ask("/healthz").status == 200


def _hung_up(peer: socket.socket) -> bool:
    """Whether the other side ends it, rather than say nothing."""
    try:
        return peer.recv(100) == b""
    except ConnectionError:
        return True


def test_a_crowd_that_says_nothing_keeps_nobody_out_for_long(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_REQUEST_S", 1.0)
    monkeypatch.setattr(server, "_TURN_S", 0.05)
    with served() as port:
        crowd = [socket.create_connection(("127.0.0.1", port.number), timeout=10) for _ in range(server._CONNECTIONS)]
        for one in crowd:
            one.sendall(b"GET / HT")
        try:
            assert port.ask("/healthz").status == 200
        finally:
            for one in crowd:
                one.close()


# -- its address ---------------------------------------------------------------------------------------------------------


def test_a_port_in_use_and_a_strange_host_are_one_sentence(served: Served, board: Board) -> None:
    with served() as port:
        refused = {"127.0.0.1": ("Address already in use", port.number), "no such host": ("no address of this", 0)}
        for host, (sentence, number) in refused.items():
            with (
                pytest.raises(ConfigError, match=sentence) as told,
                server.serve(board, host=host, port=number, drain=lambda: None, history=Known),
            ):
                pass
            assert "\n" not in str(told.value)


def test_it_ends_with_the_block(served: Served) -> None:
    before = threading.active_count()
    with served() as port:
        assert port.ask("/healthz").status == 200
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        port.ask("/healthz")


def test_the_program_ends_with_two_where_its_port_is_taken(served: Served, tmp_path: Path) -> None:
    with served() as port:
        folder, run = str(tmp_path / "checkpoints"), str(tmp_path / "run")
        ended = CliRunner().invoke(cli, ["agent", folder, run, "--port", str(port.number), "--notices", "none"])
    assert ended.exit_code == 2
    assert ended.stderr.count("\n") == 1
    assert f"port {port.number}: Address already in use" in ended.stderr


def test_no_port_is_opened_that_was_not_asked_for(board: Board) -> None:
    with status_port(board, "run", Config(), drain=lambda: None) as number:
        assert number is None
