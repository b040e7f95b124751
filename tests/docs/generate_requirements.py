"""Write docs/reference/requirements.md: what is asked of ckptsync, and the tests that prove it: `make reference`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "requirements.md"
HEAD = """\
<!-- Written by tests/docs/generate_requirements.py; `make reference` writes it anew. -->

# Requirements and their tests

What users of preemptible machines need of a checkpoint tool: given a situation, what is expected. Every test that proves one carries its
number (`@pytest.mark.req(26)`), and this table is made of those marks. Numbers that are missing here are not covered by marked tests yet.
`pytest FILE::NAME` runs one of them.
"""
REQUIREMENTS = {
    1: "The uploader is killed at any request of a snapshot: the latest snapshot is the one before, and a restore gives that one.",
    2: "Any object of a snapshot cannot be written: no manifest for it appears, and neither retention nor gc touches the one before.",
    3: "A part is refused for good: the caller gets a typed error with file, key, request and tries, and the program's exit code is not 0.",
    4: "A program ends while a save is under way: it waits for it, or says what is not durable; after a kill nothing is lost that was.",
    7: "A multipart upload is killed: the next run sends only the missing parts, with the journal on disk or from the bucket alone.",
    8: "Snapshots are saved, fail, resume at lower steps: retention goes by epoch and commit, never by times or names, and leaves at least one.",
    10: "A server takes a connection and says nothing: the request ends within its deadline, and the error says what was waited for.",
    11: "A source file is rewritten while it is saved, to the same size: the snapshot is not committed.",
    14: "Something else put objects below the run: gc leaves them alone, and `adopt` makes a snapshot of them without moving them.",
    15: "Writing fails half-way: nothing appears under the final key, and there is no manifest.",
    16: "A store drops, cuts or alters a part: the commit is refused.",
    17: "A bit flips in the bucket: `verify` names file and part; a restore fetches the part once more, then takes the snapshot before.",
    18: "Credentials expire during an upload: they are read afresh and the same upload goes on; when that does not help, a typed error says so.",
    19: "Many writers are told to slow down: they back off with full jitter, honour the pause asked for, and all finish.",
    20: "The answer to a conditional put is lost: the winner learns that it won, and only a loser is fenced; an undecided conflict is tried again.",
    21: "A service takes one change a second of each object: no key is rewritten in haste, and a refused creation is settled by reading.",
    22: "An S3-compatible service cannot take the SDK's default checksums: ckptsync works without, and `doctor` says what the service does.",
    23: "A local disk fills up: what is durable goes first, what is not never, and a save that finds no room goes to the bucket all the same.",
    25: "A snapshot of several ranks lacks one: nothing is committed, the missing rank is named, and the snapshot before stays the latest.",
    26: "A writer is paused, another takes over, the first wakes up: its commit is fenced, and it overwrites and deletes nothing of the other's.",
    28: "A process is killed while it holds something: nothing needs unlocking, the next save or gc simply finishes.",
    29: "A multipart upload's finish answers 200 with an error inside, is unknown after success, or finds a part replaced: it is settled.",
    30: "Killed attempts leave objects and uploads: gc lists and deletes those older than the grace period, and resuming after that starts clean.",
    31: "Thousands of objects are to be deleted: the manifest goes first, the rest in batches, and what is gone already counts as deleted.",
    32: "Rights are missing one by one: `doctor` names each, and a refused request is read neither as absent nor as damaged.",
    33: "Connections break during a restore: it goes on where it stopped, reads one version of each object, and the target appears whole.",
    35: "Runs have names that begin alike, or hold spaces, dots and percent signs: listing, gc and restore of one never touch another.",
}


class Collector:
    """Notes the numbers that each collected test carries; parametrized cases count once."""

    def __init__(self) -> None:
        self.found: dict[int, set[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            name = item.nodeid.partition("[")[0]
            for mark in item.iter_markers("req"):
                for number in mark.args:
                    self.found.setdefault(int(number), set()).add(name)


def collected() -> dict[int, list[str]]:
    """Tests by number, as pytest collects them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [sys.executable, __file__, "--collect", str(found)]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"pytest could not collect the tests: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return {int(number): tests for number, tests in json.loads(found.read_text()).items()}


def missing(tests: dict[int, list[str]]) -> list[int]:
    """Numbers that no test carries."""
    return sorted(REQUIREMENTS.keys() - tests.keys())


def page(tests: dict[int, list[str]] | None = None) -> str:
    """The whole page."""
    tests = collected() if tests is None else tests
    lines = [HEAD, "| number | given, and expected | tests |", "|--:|---|---|"]
    for number, statement in REQUIREMENTS.items():
        names = [f"`{name.removeprefix('tests/')}`" for name in tests.get(number, [])]
        lines.append(f"| {number} | {statement} | {'<br>'.join(names) or '(none yet)'} |")
    return "\n".join(lines) + "\n"


def collect(into: Path) -> int:
    """Collect in this process, and write what was found."""
    collector = Collector()
    code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "tests"], plugins=[collector])
    into.write_text(json.dumps({number: sorted(tests) for number, tests in sorted(collector.found.items())}))
    return int(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--collect"]:
        sys.exit(collect(Path(sys.argv[2])))
    PAGE.write_text(page())
