"""terraform/modules/aws-bucket as Terraform makes it on moto, and whoever acts in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from ckptsync.testing.servers import REGION, Server
from support.iam import Rights
from support.moto import moto
from support.terraform import Terraform

MODULE, BUCKET, PREFIX = "modules/aws-bucket", "team-checkpoints", "runs"
ADMIN = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
_LOOPBACK = f'provider "aws" {{\n  region            = "{REGION}"\n  s3_use_path_style = true\n}}\n'


@dataclass(frozen=True, slots=True)
class Applied:
    """An account on loopback, and the module in a copy.

    Attributes:
        server: moto.
        terraform: in the copy.
    """

    server: Server
    terraform: Terraform

    def do(self, *arguments: str, **variables: object) -> str:
        """Run Terraform in the module; what it says. Variables stay until they are given again."""
        if variables:
            (self.terraform.tree / MODULE / "terraform.tfvars.json").write_text(json.dumps(variables))
        environ = {**self.server.environ, "AWS_ENDPOINT_URL": self.server.url}
        return self.terraform(MODULE, *arguments, environ=environ).stdout

    def outputs(self) -> dict[str, Any]:
        """Of the module, once it is applied."""
        return {name: output["value"] for name, output in json.loads(self.do("output", "-json")).items()}

    def client(self, service: str, keys: Mapping[str, str] | None = None, url: str = "") -> Any:
        """A client of boto3 that tries once."""
        keys = keys or ADMIN
        return boto3.client(
            service,
            endpoint_url=url or self.server.url,
            region_name=REGION,
            aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
            aws_session_token=keys.get("AWS_SESSION_TOKEN"),
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def assumed(self, role: str) -> dict[str, str]:
        """Take a role; its keys, by the names of their environment variables."""
        made = self.client("sts").assume_role(RoleArn=self.arn(role), RoleSessionName="session")["Credentials"]
        return {
            "AWS_ACCESS_KEY_ID": made["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"],
            "AWS_SESSION_TOKEN": made["SessionToken"],
        }

    def arn(self, role: str) -> str:
        """Of `trainer`, `reader` or `gc`."""
        found: str = self.client("iam").get_role(RoleName=f"{BUCKET}-{role}")["Role"]["Arn"]
        return found

    def rights(self, role: str) -> Rights:
        """What is in force for a role: its policies and the bucket's, read back from the account."""
        iam, name = self.client("iam"), f"{BUCKET}-{role}"
        assert not iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
        names = iam.list_role_policies(RoleName=name)["PolicyNames"]
        identity = [iam.get_role_policy(RoleName=name, PolicyName=one)["PolicyDocument"] for one in names]
        return Rights(arn=self.arn(role), identity=identity, bucket=self.bucket_policy())

    def bucket_policy(self) -> dict[str, Any]:
        """The bucket's."""
        found: dict[str, Any] = json.loads(self.client("s3").get_bucket_policy(Bucket=BUCKET)["Policy"])
        return found


@contextmanager
def account(home: Path) -> Iterator[Applied]:
    """A new account, in which nothing is applied yet."""
    with moto() as server:
        made = Applied(server, Terraform(home))
        (made.terraform.tree / MODULE / "loopback.tf").write_text(_LOOPBACK)
        yield made
