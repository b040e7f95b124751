"""torch.distributed.checkpoint, from and into tensors: over fsspec, or by the writers of s3torchconnector.

The bytes are as many as the file has; what is written is torch's own format, so the bucket must keep it.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from meter import WARM_BYTES, Job, Move, main
from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

TENSORS, THREADS = 16, 4
warnings.filterwarnings("ignore")


def connect(job: Job) -> tuple[Move, Move]:
    """Make the tensors; they are there before anything is measured."""
    writer, reader = storage(job)
    tensors = {size: weights(size) for size in (WARM_BYTES, job.size)}

    def put(key: str, path: Path) -> None:
        size = WARM_BYTES if path.name.startswith("warm") else job.size
        dcp.save(tensors[size], storage_writer=writer(key), no_dist=True)

    def get(key: str, path: Path) -> None:
        size = WARM_BYTES if path.name.startswith("warm") else job.size
        dcp.load(tensors[size], storage_reader=reader(key), no_dist=True)

    return put, get


def weights(size: int) -> dict[str, torch.Tensor]:
    """A state of so many bytes."""
    return {f"layer{number}": torch.randint(0, 255, (size // TENSORS,), dtype=torch.uint8) for number in range(TENSORS)}


def storage(job: Job) -> tuple[Any, Any]:
    """What makes a writer and a reader of a key."""
    if job.variant == "s3torchconnector":
        from s3torchconnector import S3ClientConfig  # noqa: PLC0415  its start is not fsspec's
        from s3torchconnector.dcp import S3StorageReader, S3StorageWriter  # noqa: PLC0415

        config = S3ClientConfig(force_path_style=True)
        base = f"s3://{job.bucket}"
        return (
            lambda key: S3StorageWriter("us-east-1", f"{base}/{key}", s3client_config=config, thread_count=THREADS),
            lambda key: S3StorageReader("us-east-1", f"{base}/{key}", s3client_config=config),
        )
    if job.cloud == "s3":
        base, options = f"s3://{job.bucket}", {"client_kwargs": {"endpoint_url": job.endpoint}}
    else:
        base = f"gs://{job.bucket}"
        options = {"token": "anon", "project": "bench", "endpoint_url": job.endpoint}
    return (
        lambda key: FsspecWriter(f"{base}/{key}", thread_count=THREADS, **options),
        lambda key: FsspecReader(f"{base}/{key}", **options),
    )


main(connect)
