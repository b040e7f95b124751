"""Which checkpoints in a directory are whole, told by the files that frameworks write. Imports no framework, unpickles nothing."""
