"""What the sidecar commits, what it leaves alone, and how it ends."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.agents import Steps, write
from support.waiting import LONG_S, wait_until

from ckptsync.agent.agent import Agent
from ckptsync.agent.board import State
from ckptsync.agent.notice import Notice, Source
from ckptsync.clock import SYSTEM
from ckptsync.errors import (
    ConfigError,
    CredentialsError,
    DeniedError,
    FencedError,
    NotDurableError,
    NotFoundError,
    TransientError,
)
from ckptsync.events import Event, Kind
from ckptsync.options import MIB, Config
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.verbs.save import save

Begin = Callable[..., Steps]


def test_each_checkpoint_is_committed_once(begin: Begin, folder: Path, run: Run) -> None:
    steps = begin()
    steps.look()
    for step in (1, 2):
        write(folder / f"step_{step}.safetensors", at_s=step)
        steps.look()
        assert steps.upload()
        steps.look()
        assert not steps.upload()
    assert steps.steps == [1, 2]
    assert [listed.id.step for listed in run.catalog.listed()] == [2, 1]
    status = steps.agent.board.status
    assert (status.commits, status.pending, status.state, status.epoch) == (2, 0, State.WATCHING, 1)
    assert status.newest is not None
    assert status.newest.step == 2


def test_what_has_not_settled_is_not_taken(begin: Begin, folder: Path) -> None:
    steps = begin()
    write(folder / "step_1.safetensors")
    found = steps.agent.look()
    assert found.settling
    assert not steps.upload()


def test_a_restart_on_the_same_disk_commits_nothing_twice(begin: Begin, folder: Path) -> None:
    write(folder / "step_1.safetensors")
    first = begin()
    first.look()
    assert first.upload()
    second = begin()
    second.look()
    second.upload()  # which finds that it is there
    assert (second.saved, second.agent.board.status.pending) == ([], 0)
    assert not second.upload()


def test_what_the_bucket_has_is_not_committed_by_a_machine_without_a_ledger(
    begin: Begin, folder: Path, tmp_path: Path
) -> None:
    write(folder / "step_1.safetensors")
    first = begin()
    first.look()
    first.upload()
    for file in (tmp_path / "state" / "agent").iterdir():
        file.unlink()
    second = begin()
    second.look()
    second.upload()
    assert second.steps == []
    assert not second.backlog.pending


def test_what_was_there_at_the_start_and_is_older_is_told_and_left(begin: Begin, folder: Path, run: Run) -> None:
    save(run, write(folder.parent / "other"), step=50)
    write(folder / "step_7.safetensors")
    steps = begin()
    steps.look()
    steps.upload()
    assert steps.steps == []
    assert "the newest snapshot is of step 50" in steps.notices()
    write(folder / "step_8.safetensors", at_s=9e8)  # written now: the training went on from there
    steps.look()
    steps.upload()
    assert steps.steps == [8]


def test_without_a_step_snapshots_are_counted_on(begin: Begin, folder: Path, run: Run) -> None:
    save(run, write(folder.parent / "other"), step=50)
    steps = begin()
    for number in range(2):
        write(folder / "last.safetensors", at_s=number + 1)
        steps.look()
        steps.upload()
    assert steps.steps == [51, 52]
    assert steps.notices().count("does not tell its step") == 1


def test_latest_passes_over_what_is_overtaken_and_all_does_not(begin: Begin, folder: Path) -> None:
    latest, every = begin(), begin(backlog="all", directory=folder)
    for step in (1, 2, 3):
        write(folder / f"step_{step}.safetensors", at_s=step)
    latest.look()
    while latest.upload():
        pass
    assert latest.steps == [3]
    for file in (folder.parent / "state" / "agent").iterdir():
        file.unlink()
    every.work.ask_bucket()
    every.work._newest = None
    every.look()
    while every.upload():
        pass
    assert every.steps == [1, 2, 3]


@pytest.mark.req(11)
def test_what_changes_while_it_is_sent_is_not_committed_but_looked_at_again(
    begin: Begin, folder: Path, store: Any, run: Run
) -> None:
    steps = begin()
    file = write(folder / "step_1.safetensors")
    steps.look()
    store.before = lambda verb, key: os.utime(file) if verb == "put" and key.startswith("data/") else None
    assert steps.upload()
    store.heal()
    assert list(run.catalog.listed()) == []
    assert "looked at again" in steps.notices()
    assert not steps.agent.board.status.failing
    steps.look()
    assert steps.upload()
    assert steps.steps == [1]


@pytest.mark.req(11)
def test_what_is_written_over_faster_than_it_is_sent_is_copied_first(
    begin: Begin, folder: Path, store: Any, run: Run
) -> None:
    steps = begin()
    content = write(folder / "latest.safetensors").read_bytes()

    def write_over(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("data/"):
            (folder / "latest.safetensors").write_bytes(content)

    store.before = write_over
    steps.look()
    assert steps.upload()
    assert "looked at again and copied first" in steps.notices()
    steps.look()
    assert steps.upload()
    assert len(steps.saved) == 1
    assert [path.name for path in folder.iterdir()] == ["latest.safetensors"]
    (entry,) = next(run.catalog.history()).files
    assert entry.size == len(content)
    steps.look()
    assert "was deleted" not in steps.notices()


@pytest.mark.req(11)
def test_what_is_written_over_while_it_is_copied_is_told(
    begin: Begin, folder: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = begin()
    file = write(folder / "latest.safetensors")
    store.before = lambda verb, key: os.utime(file) if verb == "put" and key.startswith("data/") else None
    steps.look()
    assert steps.upload()
    copy = shutil.copyfileobj

    def write_over(*arguments: Any) -> None:
        copy(*arguments)
        os.utime(file)

    monkeypatch.setattr("shutil.copyfileobj", write_over)
    steps.look()
    assert steps.upload()
    assert steps.saved == []
    assert "sooner than it is copied or sent: write it beside and rename it" in steps.notices()


@pytest.mark.req(11)
def test_what_does_not_fit_on_the_disk_twice_is_sent_as_it_stands(
    begin: Begin, folder: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptsync.agent.uploading.free_bytes", lambda _: 1000)
    steps = begin()
    file = write(folder / "latest.safetensors")
    store.before = lambda verb, key: os.utime(file) if verb == "put" and key.startswith("data/") else None
    steps.look()
    assert steps.upload()
    store.heal()
    steps.look()
    assert steps.upload()
    assert len(steps.saved) == 1


@pytest.mark.req(13)
def test_the_trainer_may_delete_what_is_being_sent(begin: Begin, folder: Path, store: Any) -> None:
    steps = begin()
    file = write(folder / "step_1.safetensors")
    steps.look()

    def rotate(verb: str, key: str) -> None:
        if verb == "put" and key.startswith("data/"):
            file.unlink(missing_ok=True)

    store.before = rotate
    assert steps.upload()
    assert steps.steps == [1]


@pytest.mark.parametrize("error", [TransientError, DeniedError, CredentialsError])
def test_failures_are_tried_again_after_growing_pauses(
    begin: Begin, folder: Path, store: Any, error: type[Exception]
) -> None:
    steps = begin()
    steps.work.ask_bucket()
    write(folder / "step_1.safetensors")
    steps.look()
    store.fail("put", error("it does not work for a while"))
    pauses = []
    for _ in range(3):
        assert steps.upload()
        pauses.append(steps.backlog.due_s(steps.clock.monotonic()))
        assert not steps.upload()
        steps.clock.advance(pauses[-1] or 0)
    assert pauses == pytest.approx([5, 10, 20])
    status = steps.agent.board.status
    assert (status.failing, status.failures, status.pending) == (True, 3, 1)
    assert len(status.errors) == 1
    store.heal()
    assert steps.upload()
    assert steps.steps == [1]
    assert not steps.agent.board.status.failing


def test_a_newer_writer_ends_it(begin: Begin, folder: Path, run: Run) -> None:
    steps = begin()
    write(folder / "step_1.safetensors", at_s=1)
    steps.look()
    steps.upload()
    save(run, write(folder.parent / "other"), step=9)
    write(folder / "step_2.safetensors", at_s=2)
    steps.look()
    steps.upload()
    assert steps.agent.ended.is_set()
    assert isinstance(steps.agent.failure, FencedError)
    assert steps.agent.board.status.state is State.FENCED
    with pytest.raises(FencedError):
        steps.agent.drain(0)


@pytest.mark.parametrize("error", [DeniedError, CredentialsError, NotFoundError])
def test_what_the_bucket_refuses_at_the_start_ends_it(begin: Begin, store: Any, error: type[Exception]) -> None:
    steps = begin()
    store.fail("list", error("no"))
    assert steps.work.ask_bucket() is None
    assert steps.agent.ended.is_set()
    assert steps.agent.board.status.state is State.FAILED


def test_a_bucket_that_does_not_answer_is_asked_again(begin: Begin, store: Any) -> None:
    steps = begin()
    store.fail("list", TransientError("nobody answers"))
    assert steps.work.ask_bucket() is not None
    assert steps.agent.board.status.state is State.STARTING
    assert not steps.agent.ended.is_set()
    store.heal()
    assert steps.work.ask_bucket() is None
    steps.agent.look()
    assert steps.agent.board.status.state is State.WATCHING


def test_what_is_pending_is_counted_before_a_byte_is_sent(begin: Begin, folder: Path, store: Any) -> None:
    steps = begin()
    size = write(folder / "step_1.safetensors").stat().st_size
    steps.look()
    seen: list[int] = []

    def asked(*_: str) -> None:
        seen.append(steps.agent.board.status.pending_bytes)

    store.before = asked
    steps.upload()
    assert seen[2] == size  # behind the first answer
    assert steps.agent.board.status.pending_bytes == 0


def test_nothing_but_retries_is_shown_as_a_failure_that_is_tried_on(begin: Begin, folder: Path) -> None:
    steps = begin()
    write(folder / "step_1.safetensors")
    steps.look()
    assert steps.work.ask_bucket() is None
    for _ in range(3):
        steps.agent._observer(Event(kind=Kind.RETRY, message="put failed; trying again"))
        steps.clock.advance(2.0)
    status = steps.agent.board.status
    assert (status.failing, status.failures, [told.message for told in status.errors]) == (
        True,
        0,
        ["put failed; trying again"],
    )
    assert steps.upload()
    assert not steps.agent.board.status.failing


@pytest.mark.usefixtures("plain_rights")
def test_a_drain_does_not_wait_for_what_cannot_be_read(begin: Begin, folder: Path) -> None:
    steps = begin(by=SYSTEM)
    write(folder / "step_1.safetensors").chmod(0)
    (folder / "step_1.safetensors.ckptsync-ready").touch()
    steps.agent.start()
    begun_s = time.monotonic()
    with pytest.raises(NotDurableError, match="Permission denied"):
        steps.agent.drain(60.0)
    assert time.monotonic() - begun_s < 30.0


def test_a_drain_tells_how_far_it_is(begin: Begin, folder: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptsync.agent.draining._TELL_S", 0.05)
    steps = begin(by=SYSTEM)
    write(folder / "step_1.safetensors", size=2 * MIB)
    sent = threading.Event()
    store.before = lambda verb, key: verb == "put" and key.startswith("data/") and sent.wait(LONG_S)
    steps.agent.start()
    drain = threading.Thread(target=steps.agent.drain, args=(LONG_S,))
    drain.start()
    wait_until(lambda: "waiting for what is not durable yet: 2.0 MiB" in steps.notices())
    sent.set()
    drain.join(LONG_S)
    assert steps.steps == [1]


def test_a_drain_names_what_is_not_durable(begin: Begin, folder: Path) -> None:
    steps = begin()
    steps.agent.drain(0)
    assert steps.agent.board.status.state is State.DONE
    write(folder / "step_1.safetensors")
    with pytest.raises(NotDurableError, match=r"not durable: step_1\.safetensors"):
        steps.agent.drain(0)


def test_the_end_tells_what_is_no_checkpoint(begin: Begin, folder: Path) -> None:
    (folder / "notes.txt").write_text("no checkpoint")
    steps = begin(ready="dcp")
    steps.agent.drain(1.0)
    assert "nothing was committed: by the rule 'dcp' there was no checkpoint among the files, of which there are 1" in (
        steps.notices()
    )


def test_the_end_tells_what_is_not_whole(begin: Begin, folder: Path) -> None:
    write(folder / "step_1.safetensors")
    for number in range(5):
        with (folder / f"cut_{number}.safetensors").open("wb") as file:
            file.write((folder / "step_1.safetensors").read_bytes()[:-1])
    steps = begin()
    steps.look()
    steps.upload()
    steps.agent.drain(1.0)
    said = steps.notices()
    assert said.count("not committed: cut_") == 3
    assert "not committed: 2 more that are not whole" in said
    assert "no checkpoint among" not in said


def test_a_directory_that_is_not_there_yet_is_waited_for(begin: Begin, tmp_path: Path) -> None:
    steps = begin(directory=tmp_path / "later")
    steps.look()
    write(tmp_path / "later" / "step_1.safetensors")
    steps.look()
    assert steps.upload()


def test_the_trainer_can_say_that_it_is_done(begin: Begin, folder: Path) -> None:
    steps = begin()
    steps.agent.look()
    assert not steps.agent.trainer_done.is_set()
    (folder / ".ckptsync-done").touch()
    steps.agent.look()
    assert steps.agent.trainer_done.is_set()


@pytest.mark.req(23)
def test_what_is_durable_leaves_the_disk_but_for_the_newest(begin: Begin, folder: Path) -> None:
    steps = begin(keep_local=1)
    write(folder / "notes.txt")
    for step in (1, 2):
        write(folder / f"step_{step}.safetensors", at_s=step)
        steps.look()
        steps.upload()
        steps.look()
    assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "step_2.safetensors"]


@pytest.mark.parametrize("lost", ["deleted", "damaged"])
@pytest.mark.req(23)
def test_what_the_bucket_has_lost_is_committed_again_and_not_deleted(
    begin: Begin, folder: Path, run: Run, lost: str
) -> None:
    steps = begin(backlog="all")
    for step in (1, 2):
        write(folder / f"step_{step}.safetensors", at_s=step)
        steps.look()
        steps.upload()
    for listed in list(run.catalog.listed()):
        if lost == "deleted":
            run.store.delete([listed.stat.key])
        else:
            run.store.put(layout.quarantine_key(listed.id), b"{}")
    again = begin(backlog="all", keep_local=1)
    again.work.ask_bucket()
    again.look()
    assert sorted(path.name for path in folder.iterdir()) == ["step_1.safetensors", "step_2.safetensors"]
    while again.upload():
        pass
    assert again.steps == [1, 2]


@pytest.mark.req(23)
def test_what_was_never_committed_stays(begin: Begin, folder: Path) -> None:
    steps = begin(keep_local=1, min_free_bytes=1 << 62)
    for step in (1, 2):
        write(folder / f"step_{step}.safetensors", at_s=step)
    steps.look()
    steps.upload()
    steps.look()
    assert sorted(path.name for path in folder.iterdir()) == ["step_1.safetensors", "step_2.safetensors"]


@pytest.mark.req(23)
def test_what_stays_on_the_disk_for_good_is_told_once(begin: Begin, folder: Path) -> None:
    steps = begin(keep_local=1, min_free_bytes=1 << 62)
    for step in (1, 2, 3):
        write(folder / f"step_{step}.safetensors", at_s=step)
    for _ in range(3):
        steps.look()
        steps.upload()
    assert steps.steps == [3]
    assert (
        steps.notices().count("step_1.safetensors first: only what is durable is deleted; newer ones overtook them")
        == 1
    )
    assert steps.notices().count("less than --min-free, and nothing more may be deleted") == 1


@pytest.mark.req(13)
def test_links_that_lead_out_are_told(begin: Begin, folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "step_1.safetensors")
    folder.mkdir(exist_ok=True)
    (folder / "run").symlink_to(tmp_path / "elsewhere")
    steps = begin()
    steps.agent.drain(1.0)
    assert "not committed: run is a link that leads out of" in steps.notices()


# -- notices -----------------------------------------------------------------------------------------------------------


def final(steps: Steps, left_s: float) -> Notice:
    deadline_s = steps.clock.monotonic() + left_s
    return Notice(source=Source.EC2, kind="terminate", final=True, deadline_s=deadline_s, message="will be ended")


@pytest.mark.req(6)
def test_too_slow_a_bucket_keeps_the_parts_and_shows_nothing(begin: Begin, folder: Path, store: Any, run: Run) -> None:
    steps = begin()
    write(folder / "step_1.safetensors", size=12 * MIB)
    steps.look()
    sent = []

    def slow(verb: str, key: str) -> None:
        del key
        if verb == "put_part":
            steps.clock.advance(20)
            sent.append(verb)
            steps.endgame.look_again()

    steps.endgame.take_in(final(steps, 30))
    store.after = slow
    assert steps.upload()
    store.heal()
    assert len(sent) < 3
    assert list(run.catalog.listed()) == []
    (told,) = steps.agent.board.status.notices
    assert told.decision == "keep"
    assert "start continues" in told.why
    with pytest.raises(NotDurableError, match="the next start continues"):
        steps.agent.drain(0)
    again = begin()
    again.look()
    assert again.upload()
    assert again.saved[0].bytes_reused >= 5 * MIB


@pytest.mark.req(6)
def test_the_trainer_is_asked_once_and_what_comes_is_committed(begin: Begin, folder: Path) -> None:
    asked: list[Notice] = []

    class Asker:
        name = "test"

        def ask(self, notice: Notice) -> bool:
            asked.append(notice)
            return True

    steps = begin(asker=Asker())
    steps.clock.advance(60)
    steps.endgame.take_in(final(steps, 120))
    assert len(asked) == 1
    assert steps.endgame.awaits
    steps.endgame.look_again()
    assert steps.agent.board.status.notices[-1].decision == "ask"
    steps.clock.advance(1)
    write(folder / "step_5.safetensors")
    steps.look()
    assert not steps.endgame.awaits
    assert steps.upload()
    steps.endgame.look_again()
    assert len(asked) == 1
    assert steps.steps == [5]


@pytest.mark.req(6)
@pytest.mark.parametrize(("left_s", "is_asked"), [(10, False), (60, True)])
def test_no_last_checkpoint_is_asked_for_where_one_like_what_waits_could_not_be_sent(
    left_s: float,
    is_asked: bool,  # noqa: FBT001  a parameter of pytest's
    begin: Begin,
    folder: Path,
) -> None:
    asked: list[Notice] = []

    class Asker:
        name = "test"

        def ask(self, notice: Notice) -> bool:
            asked.append(notice)
            return True

    steps = begin(asker=Asker())
    write(folder / "step_1.safetensors")
    steps.look()
    assert steps.upload()
    write(folder / "step_2.safetensors", size=10 * MIB)
    steps.look()
    steps.clock.advance(5)
    steps.agent._gauge._busy_s = 1.0 * MIB
    steps.endgame.take_in(final(steps, left_s))
    assert bool(asked) is is_asked
    assert steps.backlog.paused is not is_asked


def test_of_a_short_time_little_is_kept_back(begin: Begin, folder: Path) -> None:
    steps = begin(margin_s=30.0)
    deadline_s = steps.clock.monotonic() + 8.0
    steps.endgame.take_in(Notice(source=Source.SIGNAL, kind="SIGTERM", final=True, deadline_s=deadline_s, message=""))
    assert steps.endgame.left_s() == pytest.approx(6.0)
    write(folder / "step_1.safetensors")
    steps.look()
    steps.endgame.look_again()
    assert steps.upload()


def test_a_machine_that_outlives_its_deadline_goes_on(begin: Begin, folder: Path) -> None:
    steps = begin()
    steps.work.ask_bucket()
    write(folder / "step_1.safetensors")
    steps.look()
    steps.agent._gauge._busy_s = 1.0  # a byte a second
    steps.endgame.take_in(final(steps, 10))
    assert steps.backlog.paused
    steps.clock.advance(300)
    steps.endgame.look_again()
    assert steps.upload()


def test_advice_only_begins_what_waits(begin: Begin, folder: Path, store: Any) -> None:
    steps = begin()
    steps.work.ask_bucket()
    write(folder / "step_1.safetensors")
    steps.look()
    store.fail("put", TransientError("down"))
    steps.upload()
    store.heal()
    steps.endgame.take_in(Notice(source=Source.EC2, kind="rebalance", final=False, deadline_s=None, message="may end"))
    assert steps.upload()
    assert steps.agent.board.status.notices[-1].decision == ""


@pytest.mark.parametrize(("watched", "kept"), [("a", "a"), ("a", "a/run"), ("a/checkpoints", "a"), ("link", "a/run")])
def test_a_run_in_the_directory_is_refused_and_the_other_way_round(tmp_path: Path, watched: str, kept: str) -> None:
    (tmp_path / "a/checkpoints").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(ConfigError, match="lie in each other"):
        Agent(tmp_path / watched, str(tmp_path / kept), config=Config())


def test_what_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no directory"):
        Agent(tmp_path / "file", str(tmp_path / "run"), config=Config(state_dir=str(tmp_path / "state")))
