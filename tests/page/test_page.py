"""The status page, as people see it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.agents import write
from support.browser import DESK, PHONE, Browser

from ckptsync.agent.board import Board, Committed, State, Status
from ckptsync.agent.history import Known
from ckptsync.agent.notice import Notice, Source
from ckptsync.agent.planner import Choice
from ckptsync.agent.port import status_port
from ckptsync.agent.server import serve
from ckptsync.config import resolve
from ckptsync.events import Event, Kind
from ckptsync.names import find, pin
from ckptsync.run import open_run
from ckptsync.verbs.quarantine import quarantine
from ckptsync.verbs.save import save

HOUR_S = 3600
DRAWN = "document.querySelectorAll('#timeline .dot').length === arguments[0]"
SIZES = [
    (PHONE, True),
    (DESK, False),
    *(pytest.param(*one, marks=pytest.mark.slow) for one in [(PHONE, False), (DESK, True)]),
]
WINDOWS = [PHONE, pytest.param(DESK, marks=pytest.mark.slow)]


def new_board(**fields: Any) -> Board:
    now_s = time.time()
    status: dict[str, Any] = {
        "run": "s3://bucket/runs/llama-7b/2026-11-27-a-long-name-that-has-to-be-broken-somewhere",
        "directory": "/checkpoints",
        "host": "node-3",
        "version": "1.0",
        "state": State.WATCHING,
        "since_s": now_s - 42,
        "started_s": now_s - 2 * HOUR_S,
    }
    return Board(Status(**{**status, **fields}))


def row(step: int, at_s: float, **fields: Any) -> dict[str, Any]:
    created = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    made: dict[str, Any] = {
        "snapshot": f"00000001-{step:012d}-abcd",
        "step": step,
        "epoch": 1,
        "created": created,
        "bytes": 1 << 30,
        "bytes_stored": 1 << 30,
        "files": 12,
        "metrics": {"loss": 2 * math.exp(-step / 5000), "accuracy": 1 - math.exp(-step / 5000)},
        "meta": {},
        "state": "committed",
        "pinned": False,
        "aliases": [],
        "problem": "",
    }
    return {**made, **fields}


def many(count: int) -> tuple[dict[str, Any], ...]:
    now_s = time.time()
    found = [row(100 * number, now_s - 60 * (count - number), epoch=1 + 3 * number // count) for number in range(count)]
    found[-1] |= {"state": "incomplete", "metrics": {}}
    found[count // 2] |= {"pinned": True}
    found[count // 3] |= {"state": "quarantined", "metrics": {}, "problem": "a part does not match its digest"}
    return tuple(reversed(found))


@dataclass
class Shown:
    """A page that is served."""

    port: int
    board: Board
    known: Known


@contextmanager
def showing(board: Board, *snapshots: dict[str, Any], **known: Any) -> Iterator[Shown]:
    shown = Shown(0, board, Known(**{"snapshots": snapshots, "at_s": time.time(), **known}))
    with serve(board, host="127.0.0.1", port=0, drain=lambda: None, history=lambda: shown.known) as shown.port:
        yield shown


def fits(browser: Browser) -> bool:
    """Whether nothing is wider than the window."""
    width: int = browser.js("document.documentElement.scrollWidth")  # a phone makes the window as wide as what is in it
    return width <= browser.size[0]


# -- true to the bucket --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run with committed, pinned and quarantined snapshots, of several sizes."""
    source, url = tmp_path / "source", str(tmp_path / "run")
    with open_run(url) as opened:
        for step in (100, 200, 350, 400, 900):
            write(source / "model.safetensors", size=1000 * step)
            saved = save(opened, source, step=step, metrics={"loss": 100 / step, "lr": 1e-6 * step})
            if step == 200:
                pin(opened.catalog, find(opened.catalog, saved.snapshot))
            if step == 350:
                quarantine(opened, find(opened.catalog, saved.snapshot), [("model.safetensors", 1, "it was found bad")])
    return url


def listed(run: str) -> list[dict[str, Any]]:
    """What `ckptsync ls --json` prints."""
    command = [sys.executable, "-c", "from ckptsync.cli.main import main; main()", "ls", run, "--json"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


def test_numbers_are_those_of_ls(browser: Browser, run: str) -> None:
    rows = listed(run)
    board = new_board()
    with status_port(board, run, resolve({"agent": {"port": 0}}), drain=lambda: None) as port:
        assert port is not None
        newest = rows[0]
        committed = Committed(snapshot=newest["snapshot"], step=newest["step"], bytes=newest["bytes"], at_s=time.time())
        board.committed(committed, epoch=newest["epoch"], whole_since_s=time.time())
        browser.open(port)
        browser.until(DRAWN, len(rows))
        history = browser.js("fetch('history.json').then((answer) => answer.json())")
        assert history["snapshots"] == rows
        browser.js("document.querySelectorAll('details').forEach((one) => one.open = true)")
        cells = browser.js(
            "[...document.querySelectorAll('#rows tr')].map((line) => [...line.cells].map((one) => one.innerText))"
        )
        assert [(int(one[0]), int(one[3]), one[4]) for one in cells] == [
            (one["step"], one["files"], one["state"]) for one in rows
        ]
        ids = browser.js("[...document.querySelectorAll('#rows tr')].map((line) => line.dataset.snapshot)")
        assert ids == [one["snapshot"] for one in rows]
        assert [one[2] for one in cells] == [f"{one['bytes'] / 1024:.1f} KiB" for one in rows]
        assert cells[0][5] == f"loss={100 / 900:.6g} lr=0.0009"
        assert browser.text("#step") == "900"
        assert browser.texts("#curves h3") == ["loss", "lr"]
        assert browser.texts("#curves .last") == [f"{100 / 900:.6g}", "0.0009"]
        assert {"pinned or named", "quarantined"} < set(browser.texts("#legend li"))
        browser.picture("ls")


def test_the_timeline_has_time_to_the_right_and_steps_upwards(browser: Browser) -> None:
    now_s = time.time()
    rows = [row(0, now_s - 4000), row(500, now_s - 3000), row(300, now_s - 1000, epoch=2), row(1000, now_s, epoch=2)]
    with showing(new_board(), *reversed(rows)) as shown:
        browser.open(shown.port)
        browser.until(DRAWN, 4)
        places = {
            one["id"]: (one["x"], one["y"])
            for one in browser.js(
                "[...document.querySelectorAll('#timeline .dot')].map((dot) => ({ id: dot.dataset.snapshot, x: dot.cx.baseVal.value, y: dot.cy.baseVal.value }))"
            )
        }
        x, y = zip(*(places[one["snapshot"]] for one in rows), strict=True)
        assert x[0] < x[3]
        assert y[0] > y[3]  # pixels count downwards
        assert (x[1] - x[0]) / (x[3] - x[0]) == pytest.approx(1000 / 4000, abs=0.01)
        assert (x[2] - x[0]) / (x[3] - x[0]) == pytest.approx(3000 / 4000, abs=0.01)
        assert (y[0] - y[1]) / (y[0] - y[3]) == pytest.approx(500 / 1000, abs=0.01)
        assert (y[0] - y[2]) / (y[0] - y[3]) == pytest.approx(300 / 1000, abs=0.01)
        assert {"epoch 1", "epoch 2"} <= set(browser.texts("#timeline text"))


def test_the_keyboard_goes_from_snapshot_to_snapshot(browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys  # noqa: PLC0415  only where there is a browser

    now_s = time.time()
    with showing(new_board(), *(row(step, now_s - 1000 + step) for step in (300, 200, 100))) as shown:
        browser.open(shown.port)
        browser.until(DRAWN, 3)
        timeline = browser.driver.find_element("id", "timeline")
        for key, step in ((Keys.END, 300), (Keys.LEFT, 200), (Keys.LEFT, 100), (Keys.LEFT, 100), (Keys.RIGHT, 200)):
            timeline.send_keys(key)
            assert f"Step {step}" in browser.text("#chosen")
        assert browser.js("document.querySelectorAll('.ring').length") == 3  # in every figure
        timeline.send_keys(Keys.ESCAPE)
        assert browser.text("#chosen") == ""


def test_metrics_leave_gaps_and_strangers_text_is_text(browser: Browser) -> None:
    evil = "<img src=x onerror=alert(1)>"
    now_s = time.time()
    values = {100: 1.0, 200: None, 300: 0.5}
    rows = [row(step, now_s - 1000 + step, metrics={evil: value}, aliases=[evil]) for step, value in values.items()]
    board = new_board()
    board.failed(evil)
    with showing(board, *reversed(rows)) as shown:
        browser.open(shown.port)
        browser.until(DRAWN, 3)
        assert browser.texts("#curves h3") == [evil]
        assert browser.js("document.querySelector('#curves .path').getAttribute('d').match(/M/g).length") == 2
        assert browser.js("document.images.length") == 1
        assert evil in browser.text("#errors")


# -- states --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "dark"), SIZES)
def test_a_busy_agent_is_shown_whole(browser: Browser, size: tuple[int, int], *, dark: bool) -> None:
    board = new_board(state=State.UPLOADING, pending=2, pending_bytes=3 << 30, pending_since_s=time.time() - 50)
    board.change(waiting=("checkpoint-7300 has no trainer_state.json yet",))
    board.noticed(Notice(source=Source.EC2, kind="rebalance", final=False, deadline_s=None, message="advice"))
    board.noticed(Notice(source=Source.EC2, kind="terminate", final=True, deadline_s=None, message="the end is near"))
    board.decided(Choice.FINISH, "1.2 GiB are left, which takes 23 s of the 117 s that are left")
    board.failed("put s3://bucket/runs/llama-7b/" + "x" * 200 + ": 503 SlowDown after 10 attempts")
    board.observe(Event(kind=Kind.SENT, bytes=64 << 20))
    with showing(board, *many(73)) as shown:
        browser.open(shown.port, size=size, dark=dark)
        browser.until(DRAWN, 73)
        assert fits(browser)
        assert browser.text("#state") == "uploading"
        assert browser.text("#pending") == "3.0 GiB"
        assert "503 SlowDown" in browser.text("#errors")
        assert "503 SlowDown" in browser.text("#alerts")
        assert browser.texts("#notices b") == ["Finish the upload"]
        assert "23 s of the 117 s" in browser.texts("#notices li")[0]
        assert "trainer_state" in browser.text("#waiting")
        browser.js("document.querySelectorAll('details').forEach((one) => one.open = true)")
        assert fits(browser)
        assert _contrasts(browser) == []
        browser.picture(f"busy-{size[0]}-{'dark' if dark else 'light'}")


def _contrasts(browser: Browser) -> list[str]:
    """Text that stands out too little from its ground, less than 4.5 to 1."""
    script = """(() => {
      const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
      const light = ([r, g, b]) => { const c = [r, g, b].map((v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
        return .2126 * c[0] + .7152 * c[1] + .0722 * c[2]; };
      const ground = (one) => { for (; one; one = one.parentElement) { const c = rgb(getComputedStyle(one).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } };
      return [...document.querySelectorAll('body *')].filter((one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) && one.checkVisibility())
        .filter((one) => { const s = getComputedStyle(one), a = light(rgb(one.namespaceURI.endsWith('svg') ? s.fill : s.color)), b = light(ground(one));
          return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5; }).map((one) => one.textContent.slice(0, 40));
    })()"""
    found: list[str] = browser.js(script)
    return found


@pytest.mark.parametrize("size", WINDOWS)
def test_an_agent_without_snapshots_says_so(browser: Browser, size: tuple[int, int]) -> None:
    with showing(new_board(state=State.STARTING), at_s=None) as shown:
        browser.open(shown.port, size=size)
        browser.until("document.querySelector('#no-snapshots').textContent.startsWith('Asking')")
        shown.known = Known(at_s=time.time())
        browser.until("document.querySelector('#no-snapshots').textContent.startsWith('No snapshot yet')")
        assert browser.text("#step") == "none"
        assert browser.texts("#notices li") == ["No notice."]
        assert fits(browser)
        browser.picture(f"empty-{size[0]}")


@pytest.mark.parametrize("size", WINDOWS)
def test_a_run_of_many_snapshots_is_drawn_at_once(browser: Browser, size: tuple[int, int]) -> None:
    with showing(new_board(), *many(1000), more=True) as shown:
        browser.open(shown.port, size=size)
        browser.until(DRAWN, 1000)
        assert browser.text("#count") == "the newest 1\u202f000"
        browser.js("document.querySelectorAll('details').forEach((one) => one.open = true)")
        assert len(browser.texts("#rows tr")) == 50
        browser.picture(f"many-{size[0]}")
        browser.driver.execute_script("document.querySelector('#more').click()")
        assert len(browser.texts("#rows tr")) == 1000
        assert fits(browser)


def test_nothing_is_drawn_anew_that_has_not_changed(browser: Browser) -> None:
    with showing(new_board(), *many(20)) as shown:
        browser.open(shown.port)
        browser.until(DRAWN, 20)
        fresh = browser.text("#fresh")
        browser.driver.execute_script(
            "window.changes = 0; const eye = new MutationObserver((all) => { window.changes += all.length; });"
            "for (const id of ['timeline', 'curves', 'rows', 'notices', 'errors', 'facts', 'alerts']) eye.observe(document.getElementById(id), { childList: true, subtree: true });"
        )
        browser.until("document.querySelector('#fresh').textContent !== arguments[0]", fresh)
        assert browser.js("window.changes") == 0
        shown.known = Known(snapshots=many(21), at_s=time.time())
        browser.until(DRAWN, 21)


@pytest.mark.parametrize(
    ("state", "told"),
    [(State.FENCED, "A newer writer"), (State.FAILED, "failed for good"), (State.DRAINING, "Draining")],
)
def test_the_end_of_an_agent_is_told_aloud(browser: Browser, state: State, told: str) -> None:
    board = new_board()
    board.entered(state)
    with showing(board, *many(5)) as shown:
        browser.open(shown.port)
        browser.until("document.querySelector('#alerts').textContent.includes(arguments[0])", told)
        assert browser.text("#state") == state.value
        browser.picture(state.value)


def test_a_bucket_that_cannot_be_read_leaves_what_was_known(browser: Browser) -> None:
    with showing(new_board(), *many(5), at_s=time.time() - 90, problem="list s3://bucket: no route to host") as shown:
        browser.open(shown.port)
        browser.until(DRAWN, 5)
        assert "no route to host" in browser.text("#alerts")
        assert "1 min 3" in browser.text("#count")


def test_an_agent_that_no_longer_answers_is_told_and_what_was_seen_stays(browser: Browser) -> None:
    with showing(new_board(), *many(5)) as shown:
        browser.open(shown.port)
        browser.until(DRAWN, 5)
    browser.until("document.body.dataset.state === 'silent'")
    assert "does not answer" in browser.text("#alerts")
    assert browser.text("#state") == "no answer"
    assert browser.js(DRAWN, 5)
    browser.picture("silent")
    assert all("ERR_CONNECTION_REFUSED" in one for one in browser.complaints())
    with serve(shown.board, host="127.0.0.1", port=shown.port, drain=lambda: None, history=lambda: shown.known):
        browser.until("document.body.dataset.state === 'watching'")
        assert browser.text("#alerts") == ""
    browser.driver.get("about:blank")
    browser.complaints()


# -- the real agent ------------------------------------------------------------------------------------------------------


def test_a_real_sidecar_shows_what_it_commits(browser: Browser, tmp_path: Path) -> None:
    folder, run = tmp_path / "checkpoints", str(tmp_path / "run")
    command = [sys.executable, "-c", "from ckptsync.cli.main import main; main()", "agent", str(folder), run]
    environ = {**os.environ, "CKPTSYNC_STATE_DIR": str(tmp_path / "state")}
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--notices", "none"], env=environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        serving = next(event for line in process.stdout if (event := json.loads(line))["event"] == "serving")
        browser.open(int(serving["url"].rstrip("/").rpartition(":")[2]))
        for count, step in enumerate((100, 200, 300), start=1):
            write(folder / f"step_{step}.safetensors", size=1 << 20)
            browser.until("document.querySelector('#step').textContent === arguments[0]", str(step))
            browser.until(DRAWN, count)
        rows = listed(run)
        assert browser.js("fetch('history.json').then((answer) => answer.json())")["snapshots"] == rows
        assert browser.js("fetch('readyz').then((answer) => answer.status)") == 200
        browser.picture("real")
        own = "fetch('drain', { method: 'POST' }).then((answer) => answer.status)"
        assert browser.js(own) == 202
        browser.driver.get("about:blank")
        browser.complaints()
        assert process.wait(60) == 0
        shutil.rmtree(folder)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
