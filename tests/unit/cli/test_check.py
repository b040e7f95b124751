"""doctor and bench."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ckptsync.cli.check import _shown, _toml
from ckptsync.config import S3, Config, resolve
from ckptsync.verbs.doctor import Check

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


def test_doctor_proves_a_directory_and_prints_what_is_in_force(call: Call, ask: Ask) -> None:
    said = call("doctor", "run").stdout
    checks, _, options = said.partition("\n# options in force\n")
    assert {line.split()[0] for line in checks.strip().splitlines()} <= {"ok", "warn"}
    assert tomllib.loads(options)["transfer"]["workers"] == 8
    (found,) = ask("doctor", "run", "--set", "transfer.workers=3")
    assert found["ok"] is True
    assert found["configuration"]["transfer"]["workers"] == 3
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
    assert "[transfer]" in result.stdout
    (found,) = ask("doctor", "run", exit_code=3)
    assert (found["ok"], [check["state"] for check in found["checks"]]) == (False, ["ok", "fail"])


def test_options_print_as_a_file_that_gives_the_same_options(tmp_path: Path) -> None:
    config = resolve({"transfer": {"workers": 3}, "s3": {"region": 'a"b'}}, environ={})
    file = tmp_path / "options.toml"
    file.write_text("\n".join(_toml(config)))
    assert resolve(environ={}, file=str(file)) == config


def test_passwords_in_addresses_are_not_shown() -> None:
    config = Config(s3=S3(endpoint_url="https://user:secret@host:9000/x"))
    assert "secret" not in json.dumps(_shown(config))
    assert 'endpoint_url = "https://***@host:9000/x"' in list(_toml(config))


def test_bench_is_a_table(call: Call, ask: Ask) -> None:
    head, *rows = call("bench", "run", "--size", "6MiB", "--part", "5MiB", "--workers", 2).stdout.splitlines()
    assert head.split() == ["DIRECTION", "SIZE", "TIME", "MiB/s", "CPU-s/GB"]
    assert [row.split()[0] for row in rows] == ["upload", "download", "verify"]
    rates = ask("bench", "run", "--size", "1MiB")
    assert [rate["bytes"] for rate in rates] == [1 << 20] * 3
    assert {"direction", "bytes", "seconds", "mib_per_s", "cpu_s_per_gb"} <= rates[0].keys()
