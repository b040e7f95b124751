"""What a training loop calls."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptsync import saver as saver_module
from ckptsync.cadence import AtMostOverhead, YoungDaly
from ckptsync.errors import ConfigError, FencedError, IntegrityError, NoSnapshotError, NotDurableError, StoreError
from ckptsync.events import Event
from ckptsync.manager import CheckpointManager
from ckptsync.policy import EveryNSteps, LatestN, SavePolicy
from ckptsync.run import open_run
from ckptsync.snapshot import layout

Make = Callable[..., CheckpointManager]


class Counter:
    """Something with a state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def model() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


def test_what_is_saved_comes_back(make: Make) -> None:
    ours, counter, extra, order = model(), Counter(), {"tokens": 5}, [3, 1, 2]
    optimizer = torch.optim.AdamW(ours.parameters(), lr=0.5)
    ours(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    counter.count = 7
    with make() as manager:
        assert manager.save(41, model=ours, optimizer=optimizer, counter=counter, extra=extra, order=order)
        drawn = random.random(), torch.rand(1).item()
    theirs, other, data, numbers = model(), Counter(), {"old": 1}, [0]
    adam = torch.optim.AdamW(theirs.parameters())
    with make() as manager:
        start = manager.restore(model=theirs, optimizer=adam, counter=other, extra=data, order=numbers)
        assert (random.random(), torch.rand(1).item()) == drawn
    assert start == 42
    assert torch.equal(theirs.weight, ours.weight)
    assert adam.param_groups[0]["lr"] == 0.5
    assert torch.equal(adam.state[theirs.weight]["exp_avg"], optimizer.state[ours.weight]["exp_avg"])
    assert (other.count, data, numbers) == (7, {"tokens": 5}, [3, 1, 2])


def test_where_there_is_nothing_the_start_is_zero_and_nothing_changes(make: Make) -> None:
    ours, before = Counter(), random.getstate()
    assert make().restore(counter=ours) == 0
    assert random.getstate() == before
    with pytest.raises(NoSnapshotError):
        make().restore(snapshot=7, counter=ours)


def test_the_loop_may_go_on_as_soon_as_it_returns(make: Make, slow: threading.Event) -> None:
    ours, state = model(), {"n": [1]}
    before = ours.weight.detach().clone()
    manager = make()
    manager.save(0, model=ours, state=state)
    ours.weight.data.zero_()
    state["n"][0] = 2
    slow.set()
    manager.wait()
    assert manager.restore(model=ours, state=state) == 1
    assert torch.equal(ours.weight, before)
    assert state == {"n": [1]}


def test_one_is_under_way_at_a_time(make: Make, slow: threading.Event) -> None:
    manager = make(busy="skip")
    assert manager.save(0, n={"n": 0})
    assert not manager.save(1, n={"n": 1})
    with pytest.raises(NotDurableError, match=r"step 0 was not durable after 0\.1 s"):
        manager.wait(0.1)
    slow.set()
    manager.wait()
    assert manager.save(2, n={"n": 2})
    manager.wait()
    assert [one.id.step for one in manager.history()] == [2, 0]


def test_the_next_waits_for_the_one_before(make: Make, slow: threading.Event) -> None:
    manager, threads = make(), threading.active_count()
    manager.save(0, n={"n": 0})
    threading.Timer(0.2, slow.set).start()
    assert manager.save(1, n={"n": 1})
    manager.wait()
    assert [one.id.step for one in manager.history()] == [1, 0]
    assert threading.active_count() == threads


@pytest.mark.req(3)
@pytest.mark.parametrize("next_call", ["save", "wait", "close"])
def test_what_goes_wrong_is_raised_by_the_next_call(
    make: Make, monkeypatch: pytest.MonkeyPatch, next_call: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the bucket is gone")

    manager = make()
    monkeypatch.setattr(saver_module, "save", fail)
    manager.save(0, n={"n": 0})
    manager._saver.join(30)
    with pytest.raises(StoreError, match="the bucket is gone"):
        manager.save(1, n={"n": 1}) if next_call == "save" else getattr(manager, next_call)()
    monkeypatch.undo()
    if next_call != "close":
        assert manager.save(2, n={"n": 2})
        manager.close()


@pytest.mark.req(3)
def test_what_a_loop_dies_of_is_not_hidden_by_a_save_that_failed(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the bucket is gone")

    monkeypatch.setattr(saver_module, "save", fail)

    def loop() -> None:
        with make() as manager:
            manager.save(0, n={"n": 0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert "the bucket is gone" in caplog.text


def test_old_ones_are_deleted_and_the_policy_says_when_to_save(make: Make) -> None:
    with make(save=EveryNSteps(3), keep=LatestN(2)) as manager:
        for step in range(10):
            if manager.should_save(step):
                manager.save(step, n={"step": step})
                manager.wait()
        assert [one.id.step for one in manager.history()] == [9, 6]


def test_only_what_is_asked_for_is_restored(make: Make) -> None:
    with make() as manager:
        manager.save(3, a={"n": 1}, b={"n": 2})
    a, b, before = {"n": 0}, {"n": 0}, random.getstate()
    with make() as manager:
        assert manager.restore(only=["a"], a=a, b=b) == 4
    assert (a, b) == ({"n": 1}, {"n": 0})
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({"scheduler": Counter()}, r"has no item 'scheduler'; it has counter, model \(choose with only="),
        ({"model": torch.nn.Linear(3, 4)}, r"bias is \[2\] there and \[4\] here"),
        ({"model": torch.nn.Linear(3, 2, bias=False)}, r"bias is \[2\] there and absent here"),
        ({"model": 5}, "cannot take a state"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(make: Make, items: dict[str, Any], reason: str) -> None:
    with make() as manager:
        manager.save(3, model=model(), counter=Counter())
    counter = Counter()
    counter.count = 5
    with make() as manager, pytest.raises(ConfigError, match=reason):
        manager.restore(counter=counter, **items)
    assert counter.count == 5


def test_a_damaged_snapshot_is_passed_over_before_anything_is_read(make: Make, tmp_path: Path) -> None:
    counter = Counter()
    with make() as manager:
        for step in (1, 2):
            counter.count = step
            manager.save(step, counter=counter)
        manager.wait()
    (newest,) = (tmp_path / "run/data").glob("*-000000000002-*/counter.pt")
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.chmod(0o644)
    newest.write_bytes(content)
    with make() as manager:
        assert manager.restore(counter=counter) == 2
        assert counter.count == 1
        with pytest.raises(IntegrityError):
            manager.restore(counter=counter, snapshot=2)


@pytest.mark.parametrize("name", ["random", "a b", "../x", "a/b", ""])
def test_names_that_cannot_be_are_refused(make: Make, name: str) -> None:
    with pytest.raises(ConfigError, match="under the name"):
        make().save(1, **{name: {"n": 1}})


def test_bad_arguments_say_so(make: Make) -> None:
    with pytest.raises(ConfigError, match="nothing to save"):
        make().save(1)
    with pytest.raises(ConfigError, match="'wait', 'skip' or 'latest'"):
        make(busy="never")
    with pytest.raises(ConfigError, match="a function"):
        make(validate=True)
    manager = make()
    manager.close()
    with pytest.raises(ConfigError, match="is closed"):
        manager.save(1, n={"n": 1})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"step": -1}, "out of range"),
        ({"step": 1.5}, "not a whole number"),
        ({"step": True}, "not a whole number"),
        ({"metrics": {"loss": "low"}}, "no number"),
        ({"metrics": {"loss": torch.ones(2)}}, "no number"),
        ({"meta": {"who": 7}}, "must be text"),
    ],
)
def test_what_cannot_stand_in_a_manifest_is_refused_at_once(make: Make, options: dict[str, Any], reason: str) -> None:
    with make() as manager, pytest.raises(ConfigError, match=reason):
        manager.save(**{"step": 1, "n": {"n": 1}, **options})
    assert not manager.history()


def test_metrics_are_those_of_the_moment_they_are_given(make: Make, slow: threading.Event) -> None:
    running, metrics, meta = torch.tensor(1.0, requires_grad=True), {"loss": 5.0}, {"who": "me"}
    with make() as manager:
        manager.save(1, n={"n": 1}, metrics=metrics | {"running": running}, meta=meta)
        metrics["loss"], meta["who"] = 7.0, "you"
        running.data.fill_(3.0)
        slow.set()
        manager.wait()
        (saved,) = manager.history()
    assert (saved.metrics, saved.meta) == ({"loss": 5.0, "running": 1.0}, {"who": "me"})


def test_who_was_overtaken_saves_no_more(make: Make) -> None:
    zombie, successor = make(), make()
    zombie.save(1, n={"n": 1})
    zombie.wait()
    successor.save(1, n={"n": 2})
    successor.wait()
    zombie.save(2, n={"n": 3})
    with pytest.raises(FencedError):
        zombie.wait()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_has_no_part_in_it(make: Make, slow: threading.Event) -> None:
    manager = make()
    manager.save(1, n={"n": 1})
    if not (child := os.fork()):
        try:
            manager.save(2, n={"n": 2})
        except ConfigError as error:
            os._exit(0 if "forked" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    slow.set()
    manager.wait()


def test_the_latest_takes_the_place_of_the_one_that_waits(make: Make, slow: threading.Event, told: list[Event]) -> None:
    manager, state = make(busy="latest"), {"n": 0}
    for step in range(5):
        state["n"] = step
        assert manager.save(step, state=state)
    assert [event.message.split(" was not sent")[0] for event in told] == ["step 1", "step 2", "step 3"]
    with pytest.raises(NotDurableError, match="step 4"):
        manager.wait(0.05)
    slow.set()
    manager.wait()
    assert [one.id.step for one in manager.history()] == [4, 0]
    assert manager.restore(state=state) == 5
    assert state == {"n": 4}


def test_the_latest_takes_no_more_than_a_second_copy(make: Make, slow: threading.Event) -> None:
    manager, weights, taken = make(busy="latest"), torch.zeros(1000), set[int]()
    for step in range(6):
        manager.save(step, weights=weights)
        taken |= {buffer.data_ptr() for job in manager._saver._upload._waiting for buffer in job.taken.staged.buffers}  # type: ignore[union-attr]
        if step == 1:
            random_too = len(taken)
    assert len(taken) == random_too  # the same memory, again and again
    slow.set()
    manager.close()


def test_what_cannot_be_copied_leaves_what_waits(make: Make, slow: threading.Event, told: list[Event]) -> None:
    manager = make(busy="latest")
    manager.save(0, n={"n": 0})
    manager.save(1, n={"n": 1})
    with pytest.raises(ConfigError, match="under the name"):
        manager.save(2, random={"n": 2})
    slow.set()
    manager.wait()
    assert [one.id.step for one in manager.history()] == [1, 0]
    assert not told


@pytest.mark.req(3)
def test_the_latest_is_saved_although_the_one_before_failed_which_is_raised(
    make: Make, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, manager = saver_module.save, make(busy="latest")

    def fail_first(*args: Any, **options: Any) -> Any:
        slow.wait(30)
        if options["step"] == 0:
            raise StoreError("the bucket was gone")
        return plain(*args, **options)

    monkeypatch.setattr(saver_module, "save", fail_first)
    manager.save(0, n={"n": 0})
    manager.save(1, n={"n": 1})
    slow.set()
    with pytest.raises(StoreError, match="the bucket was gone"):
        manager.wait()
    assert [one.id.step for one in manager.history()] == [1]
    manager.wait()


@pytest.mark.req(4)
def test_a_close_that_takes_too_long_says_so_and_can_be_tried_again(make: Make, slow: threading.Event) -> None:
    manager = make()
    manager.save(3, n={"n": 3})
    with pytest.raises(NotDurableError, match=r"step 3 was not durable after 0\.05 s"):
        manager.close(0.05)
    slow.set()
    manager.close()
    manager.close()
    with open_run(manager._run.url) as run:
        assert [one.id.step for one in run.catalog.listed()] == [3]


def test_every_manifest_tells_what_the_loop_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with make() as manager:
        manager.save(10, n={"n": 1})
        manager.wait()
        monkeypatch.setattr(saver_module, "save", lambda *_, **__: 1 / 0)  # it dies amid the upload
        manager._run.store.put(layout.journal_key(layout.new_snapshot_id(1, 25)), b"")
        manager.save(25, n={"n": 2})
        with pytest.raises(ZeroDivisionError):
            manager.wait()
    monkeypatch.undo()
    with make() as manager:
        assert manager.restore(n={"n": 0}) == 11
        manager.save(11, n={"n": 1})
        manager.save(12, n={"n": 1})
        manager.wait()
        third, second, first = (one.cost.loop for one in manager.history())
    assert (first.saves, first.resumed_from, first.resume_s) == (1, "", 0)
    assert 0 < first.stall_s == first.stalled_s <= first.running_s
    assert (third.saves, second.saves) == (2, 1)
    assert second.resumed_from == third.resumed_from
    assert second.resumed_from.startswith("00000001-000000000010-")
    assert 0 < second.resume_s < second.running_s
    assert second.steps_redone == third.steps_redone == 15


@pytest.mark.parametrize("policy", [AtMostOverhead(100), YoungDaly(mtbf_s=1e-9)])
def test_policies_that_learn_are_not_due_while_a_save_is_under_way(
    make: Make, slow: threading.Event, policy: SavePolicy
) -> None:
    manager = make(save=policy)
    assert manager.should_save(0)
    manager.save(0, n={"n": 0})
    assert not manager.should_save(1)
    slow.set()
    manager.wait()
    end_s = time.monotonic() + 30
    while not manager.should_save(2):
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_policies_of_steps_are_due_whatever_is_under_way(make: Make, slow: threading.Event) -> None:
    manager = make(save=EveryNSteps(1))
    manager.save(0, n={"n": 0})
    assert manager.should_save(1)
    slow.set()


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"save": 100}, "save"), ({"save": LatestN(3)}, "save"), ({"keep": 3}, "keep"), ({"keep": EveryNSteps}, "keep")],
)
def test_what_is_no_policy_is_refused_at_once(make: Make, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make(**options)


def test_nothing_to_restore_is_refused(make: Make) -> None:
    with make() as manager, pytest.raises(ConfigError, match="nothing to restore"):
        manager.restore()
