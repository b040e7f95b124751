"""Checkpoints to S3 and Google Cloud Storage and back: committed or absent, resumed after a kill, verified before use."""

__version__ = "0.1.0.dev0"
