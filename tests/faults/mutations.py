"""Each protection is taken out of a copy of the package, and a test must notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .removals import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300


class StaleMutationError(AssertionError):
    """The text a mutation removes is no longer in the code: write the mutation anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What became of one mutation.

    Attributes:
        name: the protection.
        test: the test that must notice.
        problem: why nothing is proven; empty when it is.
    """

    name: str
    test: str
    problem: str


def mutated(mutation: Mutation, folder: Path) -> None:
    """Copy package and tests below `folder`, without the protection.

    Raises:
        StaleMutationError: the code no longer has the text, or has it several times.
    """
    for name in ("ckptsync", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    path = folder / "ckptsync" / mutation.file
    code = path.read_text()
    for old, new in mutation.changes:
        if code.count(old) != 1:
            raise StaleMutationError(f"{mutation.file} has {code.count(old)} times, not once: {old!r}")
        code = code.replace(old, new)
    path.write_text(code)


def passes(folder: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests on the package of `folder`; whether they pass, and the end of what they say."""
    environ = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
    found = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert found.returncode in {0, 1}, f"the tests did not run: {found.stdout[-600:]}{found.stderr[-600:]}"
    return found.returncode == 0, found.stdout[-600:]


def prove_one(mutation: Mutation) -> Proof:
    """Remove one protection and run its test."""
    problem = ""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        try:
            mutated(mutation, Path(folder))
            if passes(Path(folder), [mutation.test])[0]:
                problem = f"{mutation.test} passes without it"
        except AssertionError as error:
            problem = str(error)
    return Proof(name=mutation.name, test=mutation.test, problem=problem)


def prove(workers: int) -> list[Proof]:
    """Make sure that every test passes with its protection, then that it fails without."""
    tests = sorted({mutation.test for mutation in MUTATIONS})
    with tempfile.TemporaryDirectory(prefix="unmutated-") as folder:
        mutated(Mutation(name="", file="__init__.py", changes=(), test=""), Path(folder))
        whole, said = passes(Path(folder), tests)
        assert whole, f"a test fails with all protections in place: {said}"
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(prove_one, MUTATIONS))


def table(proofs: Sequence[Proof]) -> str:
    """The protections, and the tests that need them."""
    lines = ["| removing this protection | makes this test fail |", "|---|---|"]
    lines += [f"| {proof.name} | `{proof.test}` |" for proof in proofs]
    return "\n".join(lines) + "\n"
