"""How a trainer is asked for a last checkpoint."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from ckptsync.agent.ask import asker
from ckptsync.agent.notice import Notice, Source
from ckptsync.errors import ConfigError

from .test_hook import CLOCK

NOTICE = Notice(source=Source.EC2, kind="terminate", final=True, deadline_s=620.0, message="it ends")
WORDS = {"source": "ec2", "kind": "terminate", "deadline": 1_800_000_120.0, "message": "it ends"}


@contextmanager
def trainer(status: int) -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A trainer that is asked over HTTP."""
    asked: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            del format, args

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_nobody_is_asked_unless_somebody_can_be(tmp_path: Path) -> None:
    assert asker("none") is None
    by_library = asker("none", request_file=tmp_path / "request", clock=CLOCK)
    assert by_library is not None
    assert by_library.name == "request file"
    assert by_library.ask(NOTICE)
    assert json.loads((tmp_path / "request").read_text()) == WORDS


def test_by_file_which_is_new_each_time(tmp_path: Path) -> None:
    way = asker(f"file:{tmp_path / 'ask'}", clock=CLOCK)
    assert way is not None
    assert way.ask(NOTICE)
    first = (tmp_path / "ask").stat().st_ino
    with (tmp_path / "ask").open() as held:  # so that its number is not taken again
        assert way.ask(NOTICE)
        assert (tmp_path / "ask").stat().st_ino != first
        assert json.load(held) == WORDS
    assert [path.name for path in tmp_path.iterdir()] == ["ask"]


def test_by_signal() -> None:
    sent: list[int] = []
    for name in ("USR1", "SIGUSR1"):
        way = asker(f"signal:{name}", send_signal=sent.append)
        assert way is not None
        assert way.ask(NOTICE)
    assert sent == [signal.SIGUSR1, signal.SIGUSR1]


def test_by_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with trainer(204) as (url, asked):
        way = asker(f"{url}/checkpoint?soon=1", clock=CLOCK)
        assert way is not None
        assert way.ask(NOTICE)
        assert [(path, json.loads(body)) for path, body in asked] == [("/checkpoint?soon=1", WORDS)]


def test_by_command(tmp_path: Path) -> None:
    code = f"import sys; open({str(tmp_path / 'out')!r}, 'w').write(sys.stdin.read())"
    way = asker(f'command:{sys.executable} -S -c "{code}"', clock=CLOCK)
    assert way is not None
    assert way.ask(NOTICE)
    assert json.loads((tmp_path / "out").read_text()) == WORDS


def test_every_way_is_tried(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    way = asker(f"file:{tmp_path / 'no' / 'folder'}", request_file=tmp_path / "request", clock=CLOCK)
    assert way is not None
    assert way.name == "request file and file"
    assert way.ask(NOTICE)
    assert (tmp_path / "request").exists()
    assert caplog.messages == [
        f"the trainer cannot be asked by {tmp_path / 'no' / 'folder'}: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ("command:/no/such/command", "cannot be asked by /no/such/command"),
        ("command:false", "false, which asks the trainer, ended with 1"),
        ("http://user:s3cret@127.0.0.1:1/", "cannot be asked at http://***@127.0.0.1:1/"),
    ],
)
def test_who_is_not_reached_is_said(ask: str, says: str, caplog: pytest.LogCaptureFixture) -> None:
    way = asker(ask, clock=CLOCK)
    assert way is not None
    with caplog.at_level(logging.WARNING):
        assert not way.ask(NOTICE)
    assert says in caplog.text
    assert "s3cret" not in caplog.text


def test_a_trainer_that_refuses_was_not_asked(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with trainer(503) as (url, _):
        way = asker(url)
        assert way is not None
        assert not way.ask(NOTICE)
        both = asker(url, request_file=tmp_path / "request")
        assert both is not None
        assert both.name == "request file and http"
        assert both.ask(NOTICE) == "request file"
    assert "answered with status 503" in caplog.text


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        ("email", "ask is 'email'; it can be none, file:PATH"),
        ("file:", "ask is 'file:'"),
        ("http://", "ask is 'http://'"),
        ("http://127.0.0.1:99999/x", "ask is 'http://127.0.0.1:99999/x'"),
        ("http://127.0.0.1/\u00fc", "ask is 'http://127.0.0.1/\u00fc'"),
        ("command:", "ask is 'command:'"),
        ("command:a 'b", "cannot be taken apart"),
        ("signal:NONE", "there is none"),
        ("signal:KILL", "SIGKILL ends or stops the trainer"),
    ],
)
def test_what_cannot_be_understood_is_refused(ask: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        asker(ask, send_signal=lambda _: None)


def test_a_signal_needs_a_child() -> None:
    with pytest.raises(ConfigError, match="`ckptsync run`"):
        asker("signal:USR1")
