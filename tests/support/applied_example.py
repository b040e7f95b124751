"""The example for AWS as Terraform makes it on moto, and whoever acts in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import boto3
from botocore.config import Config

from ckptsync.testing.servers import Server
from support.iam import Rights
from support.moto import moto
from support.terraform import Terraform

EXAMPLE, REGION = "examples/aws", "eu-central-1"
VARIABLES = {"bucket_name": "ckptsync-example", "repository": "https://git.example.org/you/training.git"}
# The example is applied as it is, but for the way to its services, and for tags that moto takes for those of the machines.
_OVERRIDES = {
    EXAMPLE: 'provider "aws" {\n  s3_use_path_style = true\n  default_tags {}\n}\n',
    "modules/aws-spot": 'resource "aws_launch_template" "machine" {\n  tags = {}\n}\n',
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
    """An AWS account on loopback, and the example in a copy.

    Attributes:
        server: moto.
        terraform: in the copy.
        variables: of the example.
        before: what there was before anything was applied.
    """

    server: Server
    terraform: Terraform
    variables: dict[str, object]
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

    def do(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run Terraform in the example, and return what it says."""
        variables = self.terraform.tree / EXAMPLE / "terraform.tfvars.json"
        variables.write_text(json.dumps(self.variables))
        environ = {**ADMIN.environ, "AWS_ENDPOINT_URL": self.server.url}
        done = self.terraform(EXAMPLE, *arguments, environ=environ, codes=codes)
        return done.stdout + done.stderr

    def outputs(self) -> dict[str, Any]:
        """Of the example, once it is applied."""
        told = json.loads(self.do("output", "-json").partition("\n}\n")[0] + "\n}")
        return {name: output["value"] for name, output in told.items()}

    def assume(self, role_arn: str) -> Keys:
        """Keys of a role, as its session gets them."""
        made = self.client("sts").assume_role(RoleArn=role_arn, RoleSessionName="session")["Credentials"]
        return Keys(made["AccessKeyId"], made["SecretAccessKey"], made["SessionToken"])

    def rights(self, role_arn: str) -> Rights:
        """What is in force for a role: its policies and that of the bucket, read back from the account."""
        iam, name = self.client("iam"), role_arn.rpartition("/")[2]
        assert not iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        names = iam.list_role_policies(RoleName=name)["PolicyNames"]
        identity = [iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"] for one in names]
        told = self.client("s3").get_bucket_policy(Bucket=self.variables["bucket_name"])["Policy"]
        return Rights(arn=role_arn, identity=[_decoded(one) for one in identity], bucket=json.loads(told))

    def launch_template(self) -> dict[str, Any]:
        """What machines of the group are started with."""
        used = self.group()["MixedInstancesPolicy"]["LaunchTemplate"]["LaunchTemplateSpecification"]
        found = self.client("ec2").describe_launch_template_versions(
            LaunchTemplateId=used["LaunchTemplateId"], Versions=[used["Version"]]
        )
        (version,) = found["LaunchTemplateVersions"]
        return dict(version["LaunchTemplateData"])

    def group(self) -> dict[str, Any]:
        """The only Auto Scaling group."""
        (group,) = self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return dict(group)

    def inventory(self) -> dict[str, list[str]]:
        """What there is in the account, by kind; AWS's own policies and a new account's network are nobody's."""
        iam, ec2 = self.client("iam"), self.client("ec2")
        return {
            "buckets": [one["Name"] for one in self.client("s3").list_buckets()["Buckets"]],
            "roles": [one["RoleName"] for one in iam.list_roles()["Roles"]],
            "instance profiles": [
                one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]
            ],
            "policies": [one["PolicyName"] for one in iam.list_policies(Scope="Local")["Policies"]],
            "launch templates": [
                one["LaunchTemplateName"] for one in ec2.describe_launch_templates()["LaunchTemplates"]
            ],
            "security groups": [one["GroupName"] for one in ec2.describe_security_groups()["SecurityGroups"]],
            "machines": [
                one["InstanceId"]
                for reservation in ec2.describe_instances()["Reservations"]
                for one in reservation["Instances"]
                if one["State"]["Name"] != "terminated"
            ],
            "groups": [
                one["AutoScalingGroupName"]
                for one in self.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
            ],
        }


def _decoded(document: Mapping[str, Any] | str) -> Mapping[str, Any]:
    """A policy as boto3 gives it: decoded by then, or as it came."""
    return json.loads(unquote(document)) if isinstance(document, str) else document


@contextmanager
def account(home: Path) -> Iterator[Account]:
    """A new account, in which nothing is applied yet."""
    with moto() as server:
        made = Account(server, Terraform(home), dict(VARIABLES))
        made.before = made.inventory()
        for folder, text in _OVERRIDES.items():
            (made.terraform.tree / folder / "loopback_override.tf").write_text(text)
        made.variables["ami_id"] = made.client("ec2").describe_images()["Images"][0]["ImageId"]
        yield made
