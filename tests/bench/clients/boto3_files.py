"""boto3's `upload_file` and `download_file`."""

from __future__ import annotations

from pathlib import Path

import boto3
from meter import Job, Move, main


def connect(job: Job) -> tuple[Move, Move]:
    """Make a client with default settings."""
    client = boto3.client("s3", endpoint_url=job.endpoint, verify=job.authority or None)

    def put(key: str, path: Path) -> None:
        client.upload_file(str(path), job.bucket, key)

    def get(key: str, path: Path) -> None:
        client.download_file(job.bucket, key, str(path))

    return put, get


main(connect)
