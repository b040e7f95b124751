"""What happened, told once."""

from __future__ import annotations

import logging

import pytest

from ckptsync.events import Event, Kind, fan_out, log_observer


def test_what_people_must_see_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ckptsync")
    for kind in Kind:
        log_observer(Event(kind=kind, message=kind.value))
    warned = {record.message for record in caplog.records if record.levelno == logging.WARNING}
    assert warned == {Kind.NOTICE, Kind.FELL_BACK, Kind.REFETCHED}
    assert {record.message for record in caplog.records} == set(Kind)


def test_an_event_without_a_sentence_says_what_it_knows(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="ckptsync")
    log_observer(Event(kind=Kind.SENT, path="model.pt", bytes=7))
    assert caplog.messages == ["sent: model.pt (7 bytes)"]


def test_nothing_is_logged_that_nobody_wants(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="ckptsync")
    log_observer(Event(kind=Kind.SENT, path="model.pt"))
    assert not caplog.records


def test_observers_are_told_in_turn() -> None:
    told: list[tuple[int, Event]] = []
    event = Event(kind=Kind.NOTICE)
    fan_out(lambda seen: told.append((1, seen)), lambda seen: told.append((2, seen)))(event)
    assert told == [(1, event), (2, event)]
