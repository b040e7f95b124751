"""A folder goes into a bucket and comes back."""

from pathlib import Path

import ckptsync

Path("checkpoint").mkdir()
Path("checkpoint/model.bin").write_bytes(b"weights")

saved = ckptsync.save("checkpoint", "s3://bucket/run", step=100, metrics={"loss": 0.25})
assert saved.committed

restored = ckptsync.restore("s3://bucket/run", "elsewhere", snapshot="best:loss:min")
assert Path("elsewhere/model.bin").read_bytes() == b"weights"
assert restored.step == 100

newest = ckptsync.latest("s3://bucket/run")
assert newest is not None
assert newest.metrics == {"loss": 0.25}
assert [one.id.step for one in ckptsync.history("s3://bucket/run")] == [100]
