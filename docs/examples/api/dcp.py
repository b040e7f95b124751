"""`torch.distributed.checkpoint` into a run and out of it, here with one rank; under torchrun each brings its shards."""

import torch
import torch.distributed.checkpoint as dcp
from torch import distributed

from ckptsync.integrations.dcp import RunReader, RunWriter

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
state = {"weight": torch.arange(12.0).reshape(3, 4)}
dcp.save(state, storage_writer=RunWriter("s3://bucket/dcp", step=100))

loaded = {"weight": torch.zeros(3, 4)}
dcp.load(loaded, storage_reader=RunReader("s3://bucket/dcp"))
assert torch.equal(loaded["weight"], state["weight"])
distributed.destroy_process_group()
