"""What tests rest on that moto does not do by itself."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest
from botocore.exceptions import ClientError
from support.aws_account import ADMIN
from support.moto import moto

from ckptsync.testing.servers import REGION


def test_a_call_that_is_sent_again_is_answered_as_before_and_another_is_not() -> None:
    calls = [str(uuid4())] * 2 + [str(uuid4())]

    def sent(request: AWSPreparedRequest, **_: Any) -> None:
        request.headers["amz-sdk-invocation-id"] = calls.pop(0)

    with moto() as server:
        ec2 = boto3.client(
            "ec2",
            endpoint_url=server.url,
            region_name=REGION,
            aws_access_key_id=ADMIN.access_key,
            aws_secret_access_key=ADMIN.secret_key,
        )
        ec2.meta.events.register("before-send", sent)

        def create() -> Any:
            made = ec2.create_launch_template(LaunchTemplateName="one", LaunchTemplateData={"ImageId": "ami-1"})
            return made["LaunchTemplate"]["LaunchTemplateId"]

        assert create() == create()
        with pytest.raises(ClientError, match="AlreadyExists"):
            create()
