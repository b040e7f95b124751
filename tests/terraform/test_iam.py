"""What each role may and may not do, judged by a simulator of IAM over the policies that the module made."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.aws_account import MODULE, PREFIX, Account, account
from support.iam import Judge, Rights, judge

from ckptsync.testing.servers import virtual_environment

from .iam_cases import ALLOWED, CASES, EXPLICIT, IMPLICIT, WITHOUT_TLS, Case, on
from .iam_cases import COMMITS as _COMMITS
from .iam_cases import DATA as _DATA

ROLES = ("trainer", "reader", "gc")
BY_TLS, PLAIN = {"aws:SecureTransport": "true"}, {"aws:SecureTransport": "false"}
FULL_ACCESS = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
PINS = ("parliament==1.6.4", "setuptools<81")


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    """The module with a prefix and a key, on moto."""
    with account(tmp_path_factory.mktemp("iam"), MODULE, prefix=PREFIX, create_kms_key=True) as made:
        # The rest takes a minute, which S3 is given to settle a lifecycle.
        made.do("apply", "-auto-approve", "-target=aws_iam_role_policy.this", "-target=aws_s3_bucket_policy.this")
        yield made


@pytest.fixture(scope="module")
def rights(applied: Account) -> dict[str, Rights]:
    return {role: applied.rights(role) for role in ROLES}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Judge]:
    with judge() as made:
        yield made


def wrong(simulator: Judge, rights: dict[str, Rights], cases: list[Case], context: dict[str, str]) -> list[str]:
    """Cases that the simulator sees otherwise."""
    told = [
        (case, simulator.verdict(rights[case.role], case.action_name, case.resource, context | dict(case.context)))
        for case in cases
    ]
    return [f"{case}, but it is {verdict}" for case, verdict in told if verdict != case.verdict]


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_what_its_verbs_need_and_no_more(role: str, rights: dict[str, Rights], simulator: Judge) -> None:
    cases = [case for case in CASES if case.role == role]
    count = Counter(case.verdict for case in cases)
    assert min(count[verdict] for verdict in (ALLOWED, IMPLICIT, EXPLICIT) if role != "gc" or verdict != EXPLICIT) > 20
    assert wrong(simulator, rights, cases, BY_TLS) == []


def test_nothing_passes_without_tls(rights: dict[str, Rights], simulator: Judge) -> None:
    assert wrong(simulator, rights, [replace(case, verdict=EXPLICIT) for case in WITHOUT_TLS], PLAIN) == []


def test_the_bucket_refuses_what_a_policy_too_many_would_allow(rights: dict[str, Rights], simulator: Judge) -> None:
    too_many = {role: replace(one, identity=[*one.identity, FULL_ACCESS]) for role, one in rights.items()}
    cases = [
        *on("trainer", "PutObject", _COMMITS, EXPLICIT),
        *on("trainer", "DeleteObject DeleteObjectVersion", _COMMITS | _DATA, EXPLICIT),
        *on("gc", "PutObject", _COMMITS, EXPLICIT),
    ]
    assert wrong(simulator, too_many, cases, BY_TLS) == []


def test_an_administrator_cannot_overwrite_a_commit(rights: dict[str, Rights], simulator: Judge) -> None:
    administrator = Rights(
        arn=f"arn:aws:iam::{rights['gc'].account}:role/admin", identity=[FULL_ACCESS], bucket=rights["gc"].bucket
    )
    cases = [
        *on("admin", "PutObject", _COMMITS, EXPLICIT),
        *on("admin", "PutObject", _COMMITS, ALLOWED, {"s3:if-none-match": "*"}),
        *on("admin", "DeleteObject", _COMMITS | _DATA, ALLOWED),  # who may destroy the bucket may empty it
    ]
    assert wrong(simulator, {"admin": administrator}, cases, BY_TLS) == []


@pytest.mark.parametrize("role", ROLES)
def test_the_key_serves_s3_and_nothing_else(
    role: str, applied: Account, rights: dict[str, Rights], simulator: Judge
) -> None:
    key, kms = applied.outputs()["kms_key_arn"], applied.client("kms")
    policy = json.loads(kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    mine = replace(rights[role], bucket=policy)
    through_s3, past_it = (
        {"kms:ViaService": "s3.us-east-1.amazonaws.com"},
        {"kms:ViaService": "ec2.us-east-1.amazonaws.com"},
    )
    for action in ("kms:Decrypt", "kms:GenerateDataKey"):
        assert simulator.verdict(mine, action, key, through_s3) == ALLOWED
        assert simulator.verdict(mine, action, key, past_it) == IMPLICIT
        assert simulator.verdict(mine, action, key, {}) == IMPLICIT
        assert simulator.verdict(mine, action, key[:-1] + "?", through_s3) == IMPLICIT
    assert simulator.verdict(mine, "kms:ScheduleKeyDeletion", key, {}) == IMPLICIT
    assert simulator.verdict(mine, "kms:PutKeyPolicy", key, {}) == IMPLICIT


def test_a_wrong_verdict_is_noticed(rights: dict[str, Rights], simulator: Judge) -> None:
    (case,) = on("trainer", "DeleteObject", {"manifest": _COMMITS["manifest"]}, ALLOWED, runs=["runs/a"])
    assert len(wrong(simulator, rights, [case], BY_TLS)) == 1


@pytest.mark.parametrize("name", [*ROLES, "bucket"])
def test_parliament_finds_nothing(name: str, applied: Account, rights: dict[str, Rights]) -> None:
    policies = [applied.bucket_policy()] if name == "bucket" else rights[name].identity
    for policy in policies:
        assert findings(policy) == []


def test_parliament_finds_what_is_wrong() -> None:
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:PutObjekt", "Resource": "*"}]}
    assert findings(policy)


def findings(policy: object) -> list[str]:
    """What parliament says of a policy."""
    program = virtual_environment("parliament", PINS).with_name("parliament")
    done = subprocess.run([program, "--json"], input=json.dumps(policy), capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.splitlines()
