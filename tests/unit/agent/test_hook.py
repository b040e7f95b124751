"""Notices by a file, a command or a signal."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.waiting import wait_until

from ckptsync.agent.hook import CommandHook, FileHook, told
from ckptsync.agent.notice import Notice, Source, Watcher
from ckptsync.agent.signals import noticing
from ckptsync.agent.watching import sources, watchers, watching
from ckptsync.errors import ConfigError
from ckptsync.options import Agent

LONG_S = 20.0


class Still:
    """Time that stands."""

    def now(self) -> float:
        return 1_800_000_000.0

    def monotonic(self) -> float:
        return 500.0

    def sleep(self, seconds_s: float) -> None:
        raise AssertionError(seconds_s)


CLOCK = Still()


@contextmanager
def watched(watcher: Watcher) -> Iterator[queue.Queue[Notice]]:
    told_of: queue.Queue[Notice] = queue.Queue()
    stop = threading.Event()
    thread = threading.Thread(target=watcher.watch, args=(told_of.put, stop))
    thread.start()
    try:
        yield told_of
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("text", "left_s", "message"),
    [
        ("", None, "it is so"),
        ("90", 90.0, "it is so, which leaves 90 s"),
        ("2m", 120.0, "it is so, which leaves 120 s"),
        ('{"deadline": "30s"}', 30.0, "it is so, which leaves 30 s"),
        ('{"deadline": "soon", "message": "maintenance"}', None, "maintenance; its deadline 'soon' is no time"),
        ('{"deadline": null}', None, "it is so"),
        ("1800000045.5", 45.5, "it is so, which leaves 46 s"),
        ("2027-01-15T08:01:00Z", 60.0, "it is so, which leaves 60 s"),
        ("2027-01-15T09:01:00+01:00", 60.0, "it is so, which leaves 60 s"),
        ("2027-01-15 08:01:00", 60.0, "it is so, which leaves 60 s"),
        ("2027-01-15T07:00:00Z", -3600.0, "it is so, which leaves 0 s"),
        ('{"deadline": 30, "message": "maintenance"}', 30.0, "maintenance, which leaves 30 s"),
        ('{"message": "two\\nlines"}', None, "two lines"),
        ("the machine goes away\nsoon", None, "the machine goes away"),
        ("NaN", None, "NaN"),
        ("-5", None, "-5"),
        ("1e300", None, "1e300"),
        ("[1, 2]", None, "[1, 2]"),
    ],
)
def test_what_a_file_may_say(text: str, left_s: float | None, message: str) -> None:
    notice = told(text, "it is so", clock=CLOCK)
    assert notice.deadline_s == (None if left_s is None else pytest.approx(500.0 + left_s))
    assert notice.message == message
    assert notice.final


def test_a_file_that_appears_is_a_notice_and_each_change_another(tmp_path: Path) -> None:
    path = tmp_path / "going"
    with watched(FileHook(path, clock=CLOCK)) as notices:
        (tmp_path / "new").write_text("60")
        (tmp_path / "new").replace(path)
        assert notices.get(timeout=LONG_S).deadline_s == 560.0
        (tmp_path / "new").write_text("30")
        (tmp_path / "new").replace(path)
        assert notices.get(timeout=LONG_S).deadline_s == 530.0
        assert notices.empty()


def test_a_file_of_an_earlier_life_is_no_notice(tmp_path: Path) -> None:
    path = tmp_path / "going"
    path.write_text("old")
    hook = FileHook(path, clock=CLOCK)
    with watched(hook) as notices:
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").replace(path)
        assert notices.get(timeout=LONG_S).message == "new"
        assert notices.empty()


def test_a_command_that_ends_well_is_a_notice_once(tmp_path: Path) -> None:
    flag, count = tmp_path / "flag", tmp_path / "count"
    count.write_text("")
    code = (
        f"import os, sys; open({str(count)!r}, 'a').write('x'); print('so it is');"
        f"sys.exit(not os.path.exists({str(flag)!r}))"
    )
    with watched(CommandHook(f'{sys.executable} -S -c "{code}"', every_s=0.01, clock=CLOCK)) as notices:
        wait_until(lambda: len(count.read_text()) >= 2)
        assert notices.empty()
        flag.touch()
        assert notices.get(timeout=LONG_S).message == "so it is"
        done = len(count.read_text())
        wait_until(lambda: len(count.read_text()) >= done + 2)
        assert notices.empty()


def test_a_command_that_is_not_there_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    CommandHook("/no/such/command --flag", every_s=0.01, clock=CLOCK).watch(lambda _: None, threading.Event())
    assert caplog.messages == [
        "notice_command /no/such/command cannot be run: No such file or directory; it is not tried again"
    ]


def test_of_a_command_that_says_much_the_beginning_is_kept(tmp_path: Path) -> None:
    code = f"import os; [os.write(1, b'x' * 65536) for _ in range(200)]; open({str(tmp_path / 'done')!r}, 'w')"
    with watched(CommandHook(f'{sys.executable} -c "{code}"', every_s=LONG_S, clock=CLOCK)) as notices:
        assert notices.get(timeout=LONG_S).message == "x" * 4096
    assert (tmp_path / "done").exists()


def test_a_command_ends_with_the_watching(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with watched(CommandHook(f"sh -c 'echo $$ > {pid}; sleep 1000; echo'", every_s=LONG_S, clock=CLOCK)):
        wait_until(lambda: pid.exists() and pid.read_text().strip())
    wait_until(lambda: not running(int(pid.read_text())))


def running(group: int) -> list[str]:
    """Processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
            found += [str(path)] if int(of) == group and state != "Z" else []
    return found


def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    with watched(CommandHook("sh -c 'sleep 1000 & echo so'", every_s=LONG_S, clock=CLOCK)) as notices:
        assert notices.get(timeout=LONG_S).message == "so"


@pytest.mark.parametrize("command", ["", "''", "a 'b"])
def test_a_command_without_sense_is_refused(command: str) -> None:
    with pytest.raises(ConfigError, match="notice_command"):
        CommandHook(command, every_s=1.0)


@pytest.mark.req(5)
def test_the_first_signal_is_a_notice_and_the_second_does_what_it_did_before() -> None:
    notices: list[Notice] = []
    earlier: list[int] = []
    was = signal.signal(signal.SIGUSR2, lambda number, _: earlier.append(number))
    try:
        with noticing(notices.append, grace_s=30.0, number=signal.SIGUSR2, chain=False, clock=CLOCK):
            os.kill(os.getpid(), signal.SIGUSR2)
            assert [(notice.source, notice.kind, notice.deadline_s) for notice in notices] == [
                (Source.SIGNAL, "SIGUSR2", 530.0)
            ]
            assert not earlier
            os.kill(os.getpid(), signal.SIGUSR2)
            assert (len(notices), len(earlier)) == (1, 1)
        with noticing(notices.append, grace_s=30.0, number=signal.SIGUSR2, clock=CLOCK):
            os.kill(os.getpid(), signal.SIGUSR2)
            assert (len(notices), len(earlier)) == (2, 2)
        with noticing(notices.append, grace_s=30.0, number=signal.SIGUSR2, clock=CLOCK):
            pass
        os.kill(os.getpid(), signal.SIGUSR2)
        assert (len(notices), len(earlier)) == (2, 3)
    finally:
        signal.signal(signal.SIGUSR2, was)


@pytest.mark.req(5)
def test_a_forked_child_has_no_part_in_it() -> None:
    notices: list[Notice] = []
    with noticing(notices.append, grace_s=30.0, number=signal.SIGUSR2, clock=CLOCK):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR2)
            os._exit(bool(notices))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR2
    assert not notices


def test_other_threads_leave_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def enter() -> None:
        with noticing(print, grace_s=1.0):
            found.append(signal.getsignal(signal.SIGTERM))

    found: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [before]


@pytest.mark.parametrize(
    ("notices", "vendor", "environ", "expected"),
    [
        ("auto", "", {}, {"ec2", "gce", "signal"}),
        ("auto", "Amazon EC2", {}, {"ec2", "signal"}),
        ("auto", "Google", {}, {"gce", "signal"}),
        ("auto", "Google", {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}, {"ec2", "gce", "signal"}),
        ("none", "Google", {}, set()),
        ("gce, signal", "", {}, {"gce", "signal"}),
    ],
)
def test_which_sources_are_watched(notices: str, vendor: str, environ: dict[str, str], expected: set[str]) -> None:
    assert sources(notices, vendor=vendor, environ=environ) == expected


def test_what_cannot_be_watched_is_refused() -> None:
    with pytest.raises(ConfigError, match="notices has 'azure'; it can be auto, none, or some of ec2, gce, signal"):
        watchers(Agent(notices="ec2,azure"), environ={})
    with pytest.raises(ConfigError, match="not the address of a metadata service"):
        watchers(Agent(), environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": "https://169.254.169.254"})
    with pytest.raises(ConfigError, match="not the address of a metadata service"):
        watchers(Agent(), environ={"GCE_METADATA_HOST": "host:port"})


def test_the_sdks_variables_switch_sources_off(tmp_path: Path) -> None:
    off = {"AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}
    assert watchers(Agent(), environ=off) == []
    hooks = Agent(notices="none", notice_file=str(tmp_path / "x"), notice_command="true")
    assert [one.name for one in watchers(hooks, environ={})] == ["file", "command"]


def test_a_source_that_breaks_disturbs_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "going"
    heard = threading.Event()

    def deaf(notice: Notice) -> None:
        heard.set()
        raise ValueError(notice.message)

    with (
        caplog.at_level(logging.ERROR),
        watching(Agent(notices="none", notice_file=str(path)), deaf, environ={}),
    ):
        path.touch()
        assert heard.wait(LONG_S)
        wait_until(lambda: caplog.messages)
    assert caplog.messages == ["notices of file are no longer watched"]
