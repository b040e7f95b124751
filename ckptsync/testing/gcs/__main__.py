"""`python -m ckptsync.testing.gcs`."""

from ckptsync.testing.gcs.server import main

raise SystemExit(main())
