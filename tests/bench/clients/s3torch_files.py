"""s3torchconnector's own reader and writer, which is the CRT below them: a file's bytes in a stream each way."""

from __future__ import annotations

from pathlib import Path

from meter import Job, Move, main
from s3torchconnector import S3Checkpoint, S3ClientConfig

WINDOW_BYTES = 8 << 20


def connect(job: Job) -> tuple[Move, Move]:
    """Open the client."""
    checkpoint = S3Checkpoint("us-east-1", endpoint=job.endpoint, s3client_config=S3ClientConfig(force_path_style=True))

    def put(key: str, path: Path) -> None:
        with path.open("rb") as file, checkpoint.writer(f"s3://{job.bucket}/{key}") as writer:
            while window := file.read(WINDOW_BYTES):
                writer.write(window)

    def get(key: str, path: Path) -> None:
        with path.open("wb") as file, checkpoint.reader(f"s3://{job.bucket}/{key}") as reader:
            while window := reader.read(WINDOW_BYTES):
                file.write(window)

    return put, get


main(connect)
