"""s3fs and gcsfs: `put_file` and `get_file`."""

from __future__ import annotations

from pathlib import Path

import fsspec
from meter import Job, Move, main


def connect(job: Job) -> tuple[Move, Move]:
    """Open the filesystem with its defaults."""
    if job.cloud == "s3":
        more = {"verify": job.authority} if job.authority else {}
        system = fsspec.filesystem("s3", client_kwargs={"endpoint_url": job.endpoint, **more})
    else:
        system = fsspec.filesystem("gcs", token="anon", project="bench", endpoint_url=job.endpoint)

    def put(key: str, path: Path) -> None:
        system.put_file(str(path), f"{job.bucket}/{key}")

    def get(key: str, path: Path) -> None:
        system.get_file(f"{job.bucket}/{key}", str(path))

    return put, get


main(connect)
