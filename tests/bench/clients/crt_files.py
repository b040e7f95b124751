"""The CRT's transfers, as boto3 with `boto3[crt]` and `aws s3 cp` use them: s3transfer's manager for it.

boto3 itself takes no other endpoint than Amazon's own for them, so the manager is made here as boto3 makes it.
"""

from __future__ import annotations

from pathlib import Path

import botocore.session
from botocore.config import Config
from meter import Job, Move, main
from s3transfer.crt import (
    BotocoreCRTCredentialsWrapper,
    BotocoreCRTRequestSerializer,
    CRTTransferManager,
    create_s3_crt_client,
)

REGION = "us-east-1"


def connect(job: Job) -> tuple[Move, Move]:
    """Make a manager with default settings."""
    session = botocore.session.get_session()
    credentials = BotocoreCRTCredentialsWrapper(session.get_credentials()).to_crt_credentials_provider()
    client = create_s3_crt_client(
        REGION, crt_credentials_provider=credentials, use_ssl=bool(job.authority), verify=job.authority or None
    )
    addressing = Config(s3={"addressing_style": "path"})
    serializer = BotocoreCRTRequestSerializer(
        session, {"region_name": REGION, "endpoint_url": job.endpoint, "config": addressing}
    )
    manager = CRTTransferManager(client, serializer)

    def put(key: str, path: Path) -> None:
        manager.upload(str(path), job.bucket, key).result()

    def get(key: str, path: Path) -> None:
        manager.download(job.bucket, key, str(path)).result()

    return put, get


main(connect)
