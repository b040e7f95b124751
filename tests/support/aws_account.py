"""An AWS account on loopback, what Terraform makes in it, and whoever acts there."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
from botocore.config import Config

from ckptsync.testing.servers import REGION, Server
from support.iam import Rights
from support.moto import moto
from support.terraform import Terraform

BUCKET, PREFIX = "team-checkpoints", "runs"
MODULE, EXAMPLE = "modules/aws-bucket", "examples/aws"
# They are applied as they are, but for the way to the services, and for tags that moto takes for those of the machines.
_OVERRIDES: Mapping[str, Mapping[str, str]] = {
    MODULE: {
        f"{MODULE}/loopback.tf": f'provider "aws" {{\n  region            = "{REGION}"\n  s3_use_path_style = true\n}}\n'
    },
    EXAMPLE: {
        f"{EXAMPLE}/loopback_override.tf": 'provider "aws" {\n  s3_use_path_style = true\n  default_tags {}\n}\n',
        "modules/aws-spot/loopback_override.tf": 'resource "aws_launch_template" "machine" {\n  tags = {}\n}\n',
    },
}


@dataclass(frozen=True, slots=True)
class Keys:
    """What somebody signs with."""

    access_key: str
    secret_key: str
    token: str = ""

    @property
    def environ(self) -> dict[str, str]:
        """For a process."""
        found = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return found | ({"AWS_SESSION_TOKEN": self.token} if self.token else {})


ADMIN = Keys("test", "test")


@dataclass(slots=True)
class Account:
    """An account, and a module or example in a copy.

    Attributes:
        server: moto.
        terraform: in the copy.
        folder: of the module or example.
        variables: of it.
        before: what there was before anything was applied.
    """

    server: Server
    terraform: Terraform
    folder: str
    variables: dict[str, object] = field(default_factory=dict)
    before: dict[str, list[str]] = field(default_factory=dict)

    def client(self, service: str, keys: Keys = ADMIN, url: str = "") -> Any:
        """A client of boto3 that tries once."""
        return boto3.client(
            service,
            endpoint_url=url or self.server.url,
            region_name=REGION,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret_key,
            aws_session_token=keys.token or None,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def do(self, *arguments: str, codes: Collection[int] = (0,)) -> str:
        """Run Terraform with the variables as they are now; what it says."""
        (self.terraform.tree / self.folder / "terraform.tfvars.json").write_text(json.dumps(self.variables))
        environ = {**ADMIN.environ, "AWS_ENDPOINT_URL": self.server.url}
        done = self.terraform(self.folder, *arguments, environ=environ, codes=codes)
        return done.stdout + (done.stderr if done.returncode else "")

    def outputs(self) -> dict[str, Any]:
        """Of what is applied."""
        return {name: output["value"] for name, output in json.loads(self.do("output", "-json")).items()}

    def assume(self, role: str) -> Keys:
        """Keys of a role, as its session gets them."""
        made = self.client("sts").assume_role(RoleArn=self.arn(role), RoleSessionName="session")["Credentials"]
        return Keys(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])

    def arn(self, role: str) -> str:
        """Of `trainer`, `reader` or `gc`."""
        found: str = self.client("iam").get_role(RoleName=f"{BUCKET}-{role}")["Role"]["Arn"]
        return found

    def rights(self, role: str) -> Rights:
        """What is in force for a role: its policies and that of the bucket, read back from the account."""
        iam, name = self.client("iam"), f"{BUCKET}-{role}"
        assert not iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        names = iam.list_role_policies(RoleName=name)["PolicyNames"]
        identity = [iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"] for one in names]
        return Rights(arn=self.arn(role), identity=[_decoded(one) for one in identity], bucket=self.bucket_policy())

    def bucket_policy(self) -> dict[str, Any]:
        """The bucket's."""
        found: dict[str, Any] = json.loads(self.client("s3").get_bucket_policy(Bucket=BUCKET)["Policy"])
        return found

    def keys_below(self, prefix: str) -> list[str]:
        """Objects of the bucket, as the account's owner sees them."""
        found = self.client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [one["Key"] for one in found]

    def group(self) -> dict[str, Any]:
        """The only Auto Scaling group."""
        (group,) = self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return dict(group)

    def launch_template(self) -> dict[str, Any]:
        """What machines of the group are started with."""
        used = self.group()["MixedInstancesPolicy"]["LaunchTemplate"]["LaunchTemplateSpecification"]
        found = self.client("ec2").describe_launch_template_versions(
            LaunchTemplateId=used["LaunchTemplateId"], Versions=[used["Version"]]
        )
        (version,) = found["LaunchTemplateVersions"]
        return dict(version["LaunchTemplateData"])

    def inventory(self) -> dict[str, list[str]]:
        """What there is in the account, by kind; AWS's own policies and a new account's network are nobody's."""
        iam, ec2 = self.client("iam"), self.client("ec2")
        instances = [one for made in ec2.describe_instances()["Reservations"] for one in made["Instances"]]
        groups = self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return {
            "buckets": [one["Name"] for one in self.client("s3").list_buckets()["Buckets"]],
            "roles": [one["RoleName"] for one in iam.list_roles()["Roles"]],
            "profiles": [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
            "policies": [one["PolicyName"] for one in iam.list_policies(Scope="Local")["Policies"]],
            "templates": [one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]],
            "security groups": [one["GroupName"] for one in ec2.describe_security_groups()["SecurityGroups"]],
            "machines": [one["InstanceId"] for one in instances if one["State"]["Name"] != "terminated"],
            "groups": [one["AutoScalingGroupName"] for one in groups],
        }


def _decoded(document: Mapping[str, Any] | str) -> Mapping[str, Any]:
    """A policy as boto3 gives it: decoded by then, or as it came."""
    return json.loads(unquote(document)) if isinstance(document, str) else document


@contextmanager
def account(home: Path, folder: str, **variables: object) -> Iterator[Account]:
    """A new account, in which nothing is applied yet."""
    with moto() as server:
        made = Account(server, Terraform(home), folder, {"bucket_name": BUCKET, **variables})
        made.before = made.inventory()
        for where, text in _OVERRIDES[folder].items():
            (made.terraform.tree / where).write_text(text)
        yield made
