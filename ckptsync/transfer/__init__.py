"""Bytes between the disk and a bucket."""
