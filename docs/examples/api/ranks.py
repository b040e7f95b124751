"""Several processes save one step together; here threads stand for them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ckptsync import Rank, restore, save


def save_part(number: int) -> str:
    """Save one rank's file."""
    shard = Path(f"rank-{number}/shard-{number}.bin")
    shard.parent.mkdir()
    shard.write_bytes(bytes([number]) * 1000)
    rank = Rank(rank=number, world=2, launch="job-4711-start-1")
    return save(shard.parent, "s3://bucket/sharded", step=10, rank=rank).snapshot


with ThreadPoolExecutor(2) as ranks:
    one, other = ranks.map(save_part, range(2))
assert one == other
restore("s3://bucket/sharded", "whole")
assert sorted(path.name for path in Path("whole").iterdir()) == ["shard-0.bin", "shard-1.bin"]
