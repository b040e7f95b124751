"""What every store must do, as a test class that third parties may run against theirs."""

from ckptsync.testing.conformance.suite import StoreConformance

__all__ = ["StoreConformance"]
