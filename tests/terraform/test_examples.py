"""What is set in an example reaches the resources of its modules: each variable, with a value that is not its default."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.mocked import example
from support.terraform import OURS

_VARIABLE = re.compile(r'^variable "(\w+)" {\n(.*?)^}$', re.MULTILINE | re.DOTALL)
_DEFAULT = re.compile(r"^  default\s+= (.*)$", re.MULTILINE)
_COMMON: Mapping[str, object] = {
    "bucket_name": "other-bucket",
    "run_name": "vision/run-7",
    "repository": "https://git.example.org/you/other.git",
    "train_options": "--output-dir /var/lib/train/checkpoints --lr 1e-4",
    "desired_size": 0,
    "force_destroy": True,
}
AWS: Mapping[str, object] = {
    **_COMMON,
    "region": "us-west-2",
    "ckptsync_requirement": "ckptsync[s3,agent]==1.2.3",
    "ami_id": "ami-0fedcba9876543210",
    "instance_types": ["g6.xlarge", "g5.xlarge"],
    "subnet_ids": ["subnet-0eee", "subnet-0fff"],
    "public_ip": False,
    "source_profile": "admin",
    "create_kms_key": True,
    "versioning": False,
}
GCP: Mapping[str, object] = {
    **_COMMON,
    "project": "other-project",
    "region": "us-west1",
    "prefix": "team/runs",
    "ckptsync_requirement": "ckptsync[gcs,agent]==1.2.3",
    "machine_types": ["g2-standard-8", "n1-standard-8"],
    "image": "projects/other/global/images/family/cuda",
    "secure_boot": False,
    "role_prefix": "other",
    "operators": ["user:you@example.org"],
}
SEES = 'printf "%s " "$CLOUDSDK_CONFIG" "${GOOGLE_APPLICATION_CREDENTIALS-none}" "$(basename "$0")" "$@"'


def wrongly_tried(folder: str, variables: Mapping[str, object]) -> list[str]:
    """Variables that are not set, or to what they are anyway."""
    declared = dict(_VARIABLE.findall((OURS / "examples" / folder / "variables.tf").read_text()))
    assert variables.keys() <= declared.keys()
    defaults = {name: found[1] for name, body in declared.items() if (found := _DEFAULT.search(body))}
    return [name for name in declared if name not in variables or json.dumps(variables[name]) == defaults.get(name)]


def under(values: Any, *way: str | int) -> Any:
    """What lies at the end of a way through objects and lists."""
    for step in way:
        values = values[step]
    return values


def test_what_is_set_on_aws_arrives(tmp_path: Path) -> None:
    assert wrongly_tried("aws", AWS) == []
    outputs, made = example(tmp_path, "aws", AWS)
    bucket, machine = "module.bucket.aws_s3_bucket", "module.machine."
    template, group = made[f"{machine}aws_launch_template.machine"], made[f"{machine}aws_autoscaling_group.machines"]
    encryption = made[f"{bucket}_server_side_encryption_configuration.this"]
    kinds = under(group, "mixed_instances_policy", 0, "launch_template", 0, "override")
    assert {
        "bucket_name": made[f"{bucket}.this"]["bucket"],
        "force_destroy": made[f"{bucket}.this"]["force_destroy"],
        "versioning": under(made, f"{bucket}_versioning.this", "versioning_configuration", 0, "status"),
        "create_kms_key": under(encryption, "rule", 0, "apply_server_side_encryption_by_default", 0, "sse_algorithm"),
        "run_name": outputs["run"],
        "desired_size": group["desired_capacity"],
        "subnet_ids": sorted(group["vpc_zone_identifier"]),
        "instance_types": [template["instance_type"], *(kind["instance_type"] for kind in kinds)],
        "ami_id": template["image_id"],
        "public_ip": under(template, "network_interfaces", 0, "associate_public_ip_address"),
        "source_profile": outputs["commands"]["as_gc"].split()[-1],
        "region": re.findall(r"--region (\S+)", outputs["commands"]["interrupt"]),
    } == {
        "bucket_name": "other-bucket",
        "force_destroy": True,
        "versioning": "Suspended",
        "create_kms_key": "aws:kms",
        "run_name": "s3://other-bucket/runs/vision/run-7",
        "desired_size": 0,
        "subnet_ids": ["subnet-0eee", "subnet-0fff"],
        "instance_types": ["g6.xlarge", "g6.xlarge", "g5.xlarge"],
        "ami_id": "ami-0fedcba9876543210",
        "public_ip": "false",
        "source_profile": "admin",
        "region": ["us-west-2", "us-west-2"],
    }
    assert "module.bucket.aws_kms_key.this[0]" in made
    told = base64.b64decode(template["user_data"]).decode()
    for name in ("repository", "train_options", "ckptsync_requirement"):
        assert str(AWS[name]) in told


def test_what_is_set_on_google_cloud_arrives(tmp_path: Path) -> None:
    assert wrongly_tried("gcp", GCP) == []
    outputs, made = example(tmp_path, "gcp", GCP)
    bucket, machine = made["module.bucket.google_storage_bucket.this"], "module.machine.google_compute_region_instance_"
    template, group = made[f"{machine}template.machine"], made[f"{machine}group_manager.machines"]
    kinds = under(group, "instance_flexibility_policy", 0, "instance_selections")
    roles = [values["role_id"] for address, values in made.items() if "google_project_iam_custom_role" in address]
    assert {
        "project": {values["project"] for values in made.values() if values.get("project")},
        "region": {
            bucket["location"],
            template["region"],
            *(one["region"] for one in made.values() if "region" in one),
        },
        "bucket_name": bucket["name"],
        "force_destroy": bucket["force_destroy"],
        "prefix and run_name": outputs["run"],
        "desired_size": group["target_size"],
        "machine_types": [under(kind, "machine_types", 0) for kind in kinds],
        "image": under(template, "disk", 0, "source_image"),
        "secure_boot": under(template, "shielded_instance_config", 0, "enable_secure_boot"),
        "role_prefix": {role.partition("_")[0] for role in roles},
        "operators": {
            one["member"] for address, one in made.items() if address.startswith("google_service_account_iam")
        },
    } == {
        "project": {"other-project"},
        "region": {"us-west1"},
        "bucket_name": "other-bucket",
        "force_destroy": True,
        "prefix and run_name": "gs://other-bucket/team/runs/vision/run-7",
        "desired_size": 0,
        "machine_types": ["g2-standard-8", "n1-standard-8"],
        "image": "projects/other/global/images/family/cuda",
        "secure_boot": False,
        "role_prefix": {"other"},
        "operators": {"user:you@example.org"},
    }
    told = template["metadata"]["startup-script"]
    for name in ("repository", "train_options", "ckptsync_requirement"):
        assert str(GCP[name]) in told
    act_as_their_role(outputs["commands"], tmp_path)


def act_as_their_role(commands: Mapping[str, str], folder: Path) -> None:
    """Run each command with programs that tell what they are given, where the environment has credentials of its own."""
    for program in ("ckptsync", "gcloud"):
        (folder / program).write_text(f"#!/bin/sh\n{SEES}\n")
        (folder / program).chmod(0o755)
    environ = {
        "HOME": "/srv/a person",
        "PATH": f"{folder}:/usr/bin:/bin",
        "CLOUDSDK_CONFIG": "/elsewhere",
        "GOOGLE_APPLICATION_CREDENTIALS": "/a/key.json",
    }
    acts_as = {"doctor": "trainer", "gc": "gc"} | dict.fromkeys(("status", "ls", "report", "restore"), "reader")
    for name, who in (acts_as | {f"as_{who}": who for who in ("trainer", "reader", "gc")}).items():
        for shell in filter(shutil.which, ("sh", "bash", "dash", "zsh")):
            done = subprocess.run(
                [shell, "-c", commands[name]], env=environ, capture_output=True, text=True, check=True
            )
            program = "gcloud auth application-default login" if name.startswith("as_") else f"ckptsync {name} "
            assert done.stdout.startswith(f"/srv/a person/.config/ckptsync-{who} none {program}"), commands[name]
