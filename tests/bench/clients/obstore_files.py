"""obstore: a file in parts and back as a stream into a file; or from and into memory."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
from meter import Job, Move, main
from obstore.store import GCSStore, S3Store

PART_BYTES, WORKERS = 16 << 20, 4


def connect(job: Job) -> tuple[Move, Move]:
    """Open the bucket."""
    options = {"allow_http": True, "allow_invalid_certificates": bool(job.authority), "timeout": "300s"}
    if job.cloud == "s3":
        store = S3Store(job.bucket, endpoint=job.endpoint, client_options=options, virtual_hosted_style_request=False)
    else:
        account = {"gcs_base_url": job.endpoint, "disable_oauth": True, "client_email": "", "private_key": ""}
        store = GCSStore(
            job.bucket, service_account_key=json.dumps({**account, "private_key_id": ""}), client_options=options
        )
    return in_memory(store) if job.variant == "memory" else in_files(store)


def in_files(store: S3Store | GCSStore) -> tuple[Move, Move]:
    """With its defaults."""

    def put(key: str, path: Path) -> None:
        obstore.put(store, key, path)

    def get(key: str, path: Path) -> None:
        with path.open("wb") as file:
            for chunk in obstore.get(store, key).stream(min_chunk_size=1 << 20):
                file.write(chunk)

    return put, get


def in_memory(store: S3Store | GCSStore) -> tuple[Move, Move]:
    """Bytes that are there, in parts of our size; ranges by threads."""
    content: dict[Path, bytes] = {}

    def put(key: str, path: Path) -> None:
        data = content[path] if path in content else path.read_bytes()
        obstore.put(store, key, data, chunk_size=PART_BYTES, max_concurrency=WORKERS)

    def get(key: str, path: Path) -> None:
        del path
        size = obstore.head(store, key)["size"]

        def part(start: int) -> int:
            return len(obstore.get_range(store, key, start=start, end=min(start + PART_BYTES, size)))

        with ThreadPoolExecutor(WORKERS) as pool:
            assert sum(pool.map(part, range(0, size, PART_BYTES))) == size

    return put, get


main(connect)
