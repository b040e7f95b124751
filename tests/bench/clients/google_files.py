"""google-cloud-storage: one stream, or its transfer manager with threads or processes."""

from __future__ import annotations

import os
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager
from meter import WARM_BYTES, Job, Move, main


def connect(job: Job) -> tuple[Move, Move]:
    """Make a client without credentials; the transfer manager's processes make theirs from the environment."""
    os.environ["STORAGE_EMULATOR_HOST"] = job.endpoint
    client = storage.Client(
        project="bench", credentials=AnonymousCredentials(), client_options={"api_endpoint": job.endpoint}
    )
    bucket = client.bucket(job.bucket)

    def put(key: str, path: Path) -> None:
        if job.variant == "plain" or path.stat().st_size <= WARM_BYTES:
            bucket.blob(key).upload_from_filename(str(path))
        else:
            transfer_manager.upload_chunks_concurrently(str(path), bucket.blob(key), worker_type=job.variant)

    def get(key: str, path: Path) -> None:
        blob = bucket.blob(key)
        if job.variant == "plain" or path.name.startswith("warm"):
            blob.download_to_filename(str(path))
        else:
            transfer_manager.download_chunks_concurrently(blob, str(path), worker_type=job.variant)

    return put, get


main(connect)
