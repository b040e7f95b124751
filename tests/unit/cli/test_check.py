"""doctor and bench."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ckptsync.verbs.doctor import Check

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


def test_doctor_proves_a_directory_and_prints_what_is_in_force(call: Call, ask: Ask) -> None:
    said = call("doctor", "run").stdout
    assert {line.split()[0] for line in said.splitlines() if not line.startswith(" ")} <= {"ok", "warn"}
    assert "ok    configuration\n        run = file:" in said
    assert "        transfer.part_bytes = 16777216\n" in said
    (found,) = ask("doctor", "run", "--set", "transfer.workers=3")
    assert found["ok"] is True
    assert "transfer.workers = 3\n" in found["checks"][-1]["detail"]
    assert {"name", "state", "detail"} <= found["checks"][0].keys()
    assert not [path for path in Path("run").glob("[!.]*/**/*") if path.is_file()]


def test_doctor_names_what_failed(monkeypatch: pytest.MonkeyPatch, call: Call, ask: Ask) -> None:
    def diagnose(_: object) -> Iterator[Check]:
        yield Check(name="list", state="ok", detail="fine")
        yield Check(name="delete", state="fail", detail="the right to delete is missing")

    monkeypatch.setattr("ckptsync.verbs.doctor.diagnose", diagnose)
    result = call("doctor", "run", exit_code=3)
    assert result.stderr == "ckptsync: run cannot be used as it is: 1 of 2 checks failed: delete\n"
    assert "fail  delete" in result.stdout
    (found,) = ask("doctor", "run", exit_code=3)
    assert (found["ok"], [check["state"] for check in found["checks"]]) == (False, ["ok", "fail"])


def test_bench_is_a_table(call: Call, ask: Ask) -> None:
    head, *rows = call("bench", "run", "--size", "6MiB", "--part", "5MiB", "--workers", 2).stdout.splitlines()
    assert head.split() == ["DIRECTION", "SIZE", "TIME", "MiB/s", "CPU-s/GB"]
    assert [row.split()[0] for row in rows] == ["upload", "download", "verify"]
    rates = ask("bench", "run", "--size", "1MiB")
    assert [rate["bytes"] for rate in rates] == [1 << 20] * 3
    assert {"direction", "bytes", "seconds", "mib_per_s", "cpu_s_per_gb"} <= rates[0].keys()
