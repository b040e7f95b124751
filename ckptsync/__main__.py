"""`python -m ckptsync`, as `ckptsync`."""

from __future__ import annotations

from ckptsync.cli.main import main

if __name__ == "__main__":
    main()
