"""What checkov, which knows many ways to get infrastructure wrong, finds in ours: nothing but what is meant to be so."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from support.terraform import OURS

from ckptsync.testing.servers import virtual_environment

PINS = ("checkov==3.3.30",)
MEANT = {
    "CKV_AWS_88": "the example's machine is in the default network, which has no NAT; its security group lets nobody in",
    "CKV_AWS_144": "a copy in another region doubles the bill; what a lost region had is trained again",
    "CKV_AWS_300": "unfinished uploads are dropped below the prefix of the runs: what others have in the bucket is theirs",
    "CKV_AWS_341": "a container on the machine must hear the notice, and is one hop further away",
    "CKV_GCP_26": "flow logs are billed, and in this network there is one machine, which nothing can reach",
    "CKV_GCP_78": "versions of every checkpoint that retention deletes are billed; of the roles only gc can delete or replace, and a variable turns them on",
    "CKV2_AWS_62": "nobody waits for events of the bucket",
}


def found(folder: Path) -> dict[str, Any]:
    """The report on a folder; nothing is asked of anybody."""
    program = virtual_environment("checkov", PINS).with_name("checkov")
    command = [program, "-d", folder, "--framework", "terraform", "--skip-download", "--compact", "-o", "json"]
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode in {0, 1}, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_checkov_finds_what_is_meant_to_be_so_and_nothing_else() -> None:
    report = found(OURS)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > len(report["results"]["failed_checks"])
    failed = {one["check_id"]: f"{one['resource']}: {one['check_name']}" for one in report["results"]["failed_checks"]}
    assert failed.keys() == MEANT.keys(), failed
    assert report["summary"]["skipped"] == 0, "reasons stand here"


def test_it_finds_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('resource "aws_s3_bucket" "open" {\n  acl = "public-read-write"\n}\n')
    assert "CKV_AWS_57" in {one["check_id"] for one in found(tmp_path)["results"]["failed_checks"]}
