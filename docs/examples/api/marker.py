"""A sidecar takes what has a marker once it is whole, whatever format it has."""

import time
from pathlib import Path

from ckptsync import ready
from ckptsync.readiness.recognise import look

Path("checkpoints/step-100").mkdir(parents=True)
Path("checkpoints/step-100/weights.raw").write_bytes(b"weights")
Path("checkpoints/step-100/optimizer.raw").write_bytes(b"moments")
assert not look(Path("checkpoints"), now_s=time.time()).checkpoints  # nobody knows this format

ready("checkpoints/step-100", metrics={"loss": 0.25})
(found,) = look(Path("checkpoints"), now_s=time.time()).checkpoints
assert (found.name, found.step, found.metrics) == ("step-100", 100, {"loss": 0.25})

Path("checkpoints/step-100/weights.raw").write_bytes(b"other weights")  # it has changed since
assert not look(Path("checkpoints"), now_s=time.time()).checkpoints
