"""What saving costs a loop: real loops on a small scale, and a page that hides nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import training, training_page
from bench.peers import CLIENTS
from bench.training import CONTENDERS, Extent, measured

MIB = 1 << 20


def stalled(name: str, stalls_s: list[float], *, copy_s: float = 0.1, peak_bytes: int = 0, error: str = "") -> Any:
    sample = {"name": name, "size": 1024 * MIB, "error": error}
    figures = {
        "copy_s": copy_s,
        "stalls_s": stalls_s,
        "durable_s": [one + 1 for one in stalls_s],
        "peak_bytes": peak_bytes,
    }
    return sample if error else sample | figures


def paced(name: str, p99_s: float, *, before_s: float = 0.010, under_way: bool = True) -> Any:
    times = {"before_s": {"p50": 0.008, "p99": before_s}, "during_s": {"p50": 0.008, "p99": p99_s}}
    return {"name": name, "size": MIB, "error": "", "was_under_way": under_way, **times}


def results(*stalls: Any, paces: Any = ()) -> dict[str, Any]:
    machine = {
        "date": "2026-01-01",
        "cores": 2,
        "processor": "x",
        "memory_gib": 8,
        "kernel": "k",
        "python": "3",
        "load": 0,
    }
    extent = {"size": 1024 * MIB, "pace_size": 512 * MIB, "saves": 4, "window_s": 40.0, "rounds": 3}
    told = {"machine": machine, "extent": extent, "versions": {"torch": "2"}, "missing": "it needs root"}
    return told | {"stall": [*stalls], "pace": [*paces]}


def test_the_first_save_is_told_apart() -> None:
    found = training_page.stalls(
        [stalled("ckptsync", [0.9, 0.11, 0.13, 0.12]), stalled("ckptsync", [0.7, 0.1, 0.2, 0.1])]
    )
    assert found["ckptsync"]["first_s"] == pytest.approx(0.8)
    assert found["ckptsync"]["stall_s"] == pytest.approx(0.115)
    assert found["ckptsync"]["copies"] == pytest.approx(1.15)
    assert found["ckptsync"]["durable_s"] == pytest.approx(1.115)


@pytest.mark.parametrize(
    ("stall_s", "peak_mib", "p99_s", "holds"),
    [(0.13, 1192, 0.0104, [True, True, True]), (0.14, 1193, 0.0106, [False, False, False])],
)
def test_a_target_holds_or_does_not(stall_s: float, peak_mib: int, p99_s: float, holds: list[bool]) -> None:
    found = results(stalled("ckptsync", [0.5, stall_s], peak_bytes=peak_mib * MIB), paces=[paced("ckptsync", p99_s)])
    assert [one.holds for one in training_page.verdicts(found)] == holds


def test_steps_beside_a_save_that_ended_too_early_prove_nothing() -> None:
    found = results(paces=[paced("ckptsync", 0.01, under_way=False), paced("no save at all", 0.0101)])
    (verdict,) = training_page.verdicts(found)
    assert not verdict.holds
    assert "without a save +1.0%" in verdict.found
    assert "(it ended before the window)" in training_page.plain(found)


def test_who_failed_is_told_and_what_could_not_be_measured() -> None:
    found = results(stalled("ckptsync", [0.1]), stalled("DCP", [], error="no | <such> thing"))
    text = training_page.plain(found)
    assert "| DCP | did not work: no / &lt;such> thing |" in text
    assert "Not measured: it needs root." in text


def test_a_page_and_its_plot_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_page, "PAGE", tmp_path / "page.md")
    training_page.write(results(stalled("ckptsync", [0.1, 0.2]), paces=[paced("ckptsync", 0.01)]))
    text = (tmp_path / "page.md").read_text()
    assert "Measured on 2026-01-01: 2 cores" in text
    assert text.index("## Targets") < text.index("## A save") < text.index("## Steps") < text.index("## How it is")
    assert (tmp_path / "training-benchmarks.svg").read_text().startswith("<svg")


def test_every_contender_has_a_client_that_knows_it() -> None:
    client = (CLIENTS / "training.py").read_text()
    assert [one.way for one in CONTENDERS if f'    "{one.way}": ' not in client] == []


def test_a_loop_is_measured_for_real() -> None:
    """With ourselves and boto3, which are there."""
    extent = Extent(size=8 * MIB, pace_size=8 * MIB, saves=2, window_s=0.3, rounds=1)
    names = [training_page.OURS, "torch.save, upload_file"]
    found = {sample["name"]: sample for sample in measured(extent, "stall", names)}
    for name in names:
        assert found[name]["error"] == ""
        assert len(found[name]["stalls_s"]) == 2
        assert 0 < found[name]["copy_s"] < 1
        assert all(
            0 < stall <= durable
            for stall, durable in zip(found[name]["stalls_s"], found[name]["durable_s"], strict=True)
        )
    assert found[training_page.OURS]["peak_bytes"] > 8 * MIB  # at least the copy
    (steps,) = measured(extent, "pace", [training_page.OURS])
    assert steps["during_s"]["count"] > 1
    assert "p99" in training.training_page.line(steps)
