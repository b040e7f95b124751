"""docs/reference/fault-matrix.md: made of what `make faults` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from .matrix import Row
from .mutations import Proof
from .mutations import table as proofs_table

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "fault-matrix.md"
STORE_VERBS = (
    "list",
    "stat",
    "read",
    "get",
    "put",
    "copy",
    "begin",
    "put_part",
    "copy_part",
    "parts",
    "finish",
    "abort",
    "uploads",
    "delete",
)
HEAD = """\
<!-- Written by tests/faults/run.py; `make faults` writes it anew. -->

# Fault matrix

What happens when any single request goes wrong. `make faults` counts the requests of a verb in a dry run, then runs the verb once for
each request and each fault, strikes it there, and checks the bucket. Every number below is a count of requests that were struck in that
way; it wrote this page only because none of them failed a check.

After each struck request, with the bucket working again:

1. every committed manifest is readable, and every object it names is there with the bytes that were committed;
2. nothing that was committed before is gone, but what the verb was told to remove;
3. a restore gives the old tree or the new one to the last byte, never a mixture and never nothing;
4. the verb, called again, finishes and has done its work, and no part was sent twice but those in flight;
5. a last `gc` leaves no object, upload or marker that no snapshot needs.

| fault | what is done to the request |
|---|---|
| killed before | the process is dead before the request is sent, and sends nothing more |
| killed after | the request takes effect, then the process is dead |
| error | the request fails once and may be tried again (a reset, 503); the verb must succeed |
| error for good | the request is refused for good; the verb may fail, with an error of ours |
| lost answer | the request takes effect, and its answer does not arrive; the verb must succeed |

`memory` is a bucket that can do everything; the others lack something, as the services they stand for do: *no part copies* is like
Google Cloud Storage, *single writer* has no conditional puts. One part is in flight, unless a row says 4 workers.
"""
KILLS = """\
## Real processes, real SIGKILL

The same verbs in processes of their own, each killed by SIGKILL at a random sample of its requests, on a directory, on MiniStack (S3) and on
the loopback Google Cloud Storage.
"""
MUTATIONS = """\
## Each protection is needed

A protection that can be removed without any test noticing protects nothing. `make faults` takes each of these out of a copy of the
package, one at a time, and runs the test beside it: the test passes with the protection and fails without.
"""


def verb_table(rows: Sequence[Row]) -> Iterator[str]:
    """One table of struck requests."""
    used = [verb for verb in STORE_VERBS if any(row.points[verb] for row in rows)]
    yield f"| fault | bucket | {' | '.join(f'`{verb}`' for verb in used)} | struck | failed |"
    yield f"|---|---|{'--:|' * (len(used) + 2)}"
    for row in rows:
        counts = " | ".join(str(row.points[verb] or "") for verb in used)
        yield f"| {row.fault} | {row.kind} | {counts} | {row.points.total()} | {len(row.failures)} |"


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by verb of ours, faults together."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.scenario, []).append(row)
    return {name: sorted(group, key=lambda row: _FAULTS.index(row.fault)) for name, group in found.items()}


_FAULTS = ("killed before", "killed after", "error", "error for good", "lost answer", "SIGKILL before", "SIGKILL after")


def written(rows: Sequence[Row], killed: Sequence[Row], proofs: Sequence[Proof]) -> str:
    """The whole page."""
    struck = sum(row.points.total() for row in [*rows, *killed])
    failed = sum(len(row.failures) for row in [*rows, *killed])
    lines = [HEAD, f"**{struck} requests struck, {failed} failures; {len(proofs)} protections proven.**\n"]
    for name, group in grouped(rows).items():
        lines += [f"## {name}\n", *verb_table(group), ""]
    lines.append(KILLS)
    for name, group in grouped(killed).items():
        lines += [f"### {name}, killed\n", *verb_table(group), ""]
    lines += [MUTATIONS, proofs_table(proofs)]
    return "\n".join(lines)


def shape(page: str) -> list[str]:
    """What of a page does not depend on counts: its headings, and the words that begin each row."""
    shown = []
    for line in page.splitlines():
        if line.startswith("#"):
            shown.append(line)
        elif line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            shown.append(" | ".join(cell for cell in cells if cell and not cell.isdigit() and not _is_verb(cell)))
    return [line for line in shown if line]


def _is_verb(cell: str) -> bool:
    """A column's head: a sample need not touch every one."""
    return cell.strip("`") in STORE_VERBS or set(cell) <= set("-:")


def outdated(rows: Sequence[Row], killed: Sequence[Row], proofs: Sequence[Proof]) -> list[str]:
    """Complaints when the page has other rows than what was just run."""
    there = shape(PAGE.read_text()) if PAGE.exists() else []
    return [] if there == shape(written(rows, killed, proofs)) else [f"{PAGE.name} is out of date; run `make faults`"]
