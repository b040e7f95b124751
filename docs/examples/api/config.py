"""Options from the environment and a file hold everywhere; a `Config` holds for one call, and for nothing else."""

from pathlib import Path

from ckptsync import Config, save
from ckptsync.config import resolve
from ckptsync.options import Retry, Transfer

config = Config(
    transfer=Transfer(workers=4, max_bytes_per_s=50 << 20),
    retry=Retry(deadline_s=120),
)
Path("weights.bin").write_bytes(b"weights")
save("weights.bin", "s3://bucket/configured", step=1, config=config)

assert resolve({"transfer": {"part_bytes": "64MiB"}}).transfer.part_bytes == 64 << 20
