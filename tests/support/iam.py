"""What IAM says to a request, by policies as they are in the account: a simulator from npm, which knows conditions."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[1] / "terraform" / "iam"
_FILES = ("package.json", "package-lock.json", "judge.mjs")
Policy = Mapping[str, Any]


class JudgeError(AssertionError):
    """The simulator cannot be had, or cannot tell: tests fail by it, and never pass it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Of a role.

    Attributes:
        arn: of the role.
        identity: its policies.
        bucket: the policy of the bucket that is asked, if it has one.
    """

    arn: str
    identity: Sequence[Policy]
    bucket: Policy | None = None

    @property
    def account(self) -> str:
        """The role's, which is also the bucket's."""
        return self.arn.split(":")[4]

    @property
    def session(self) -> str:
        """Who acts, once the role is assumed."""
        return f"arn:aws:sts::{self.account}:assumed-role/{self.arn.rpartition('/')[2]}/session"


class Judge:
    """Answers one question at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lock = threading.Lock()

    def verdict(self, rights: Rights, action: str, resource: str, context: Mapping[str, str]) -> str:
        """`Allowed`, `ImplicitlyDenied` or `ExplicitlyDenied`.

        Args:
            rights: of who asks.
            action: as in `s3:PutObject`.
            resource: its ARN.
            context: what is known of the request beyond the principal, by condition key.

        Raises:
            JudgeError: the question makes no sense to the simulator: a policy, the resource or a condition key is unknown to it.
        """
        question = {
            "principal": rights.session,
            "action": action,
            "resource": resource,
            "account": rights.account,
            "context": {"aws:PrincipalArn": rights.arn, "aws:PrincipalAccount": rights.account, **context},
            "identity": list(rights.identity),
            "bucket": rights.bucket,
        }
        with self._lock:
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise JudgeError(f"the simulator ended with {self._process.wait()} over {question}")
        answer = json.loads(line)
        if answer["errors"] or answer["verdict"] is None:
            raise JudgeError(f"{answer['errors']} over {question}")
        return str(answer["verdict"])


@contextmanager
def judge() -> Iterator[Judge]:
    """Run the simulator until the block ends.

    Raises:
        JudgeError: Node or npm is missing, or the packages cannot be installed.
    """
    folder = _installed()
    process = subprocess.Popen(
        ["node", "judge.mjs"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Judge(process)
    finally:
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def _installed() -> Path:
    """The folder in which the simulator runs; made on first use, once among many processes."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise JudgeError(f"{program} is not there; install Node 20 or newer")
    base = Path(os.environ.get("CKPTSYNC_TEST_SERVERS") or ".venvs").absolute()
    base.mkdir(parents=True, exist_ok=True)
    home, wanted = base / "iam", "".join((_FOLDER / name).read_text() for name in _FILES)
    stamp = home / "made-of.txt"
    with (base / "iam.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return home
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        for name in _FILES:
            shutil.copy(_FOLDER / name, home)
        command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run(
            command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode:
            raise JudgeError(f"cannot install what judges IAM policies: {done.stdout[-4000:]}")
        stamp.write_text(wanted)
    return home
