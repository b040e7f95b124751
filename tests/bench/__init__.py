"""The cost of moving checkpoints, ours and of every peer, measured in the same run."""
