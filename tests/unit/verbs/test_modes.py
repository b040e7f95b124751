"""Permission bits come back, of files, folders and the root, also over an older snapshot."""

from __future__ import annotations

from pathlib import Path

from ckptsync.run import Run
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_modes_come_back(run: Run, tmp_path: Path) -> None:
    tree, target = tmp_path / "tree", tmp_path / "target"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "tool").write_bytes(b"#!/bin/sh")
    save(run, tree, step=1)
    restore(run, target)
    tree.chmod(0o700)
    (tree / "folder").chmod(0o750)
    (tree / "folder" / "tool").chmod(0o755)
    save(run, tree, step=2)
    restore(run, target)
    assert [mode(path) for path in (target, target / "folder", target / "folder" / "tool")] == [0o700, 0o750, 0o755]
    assert restore(run, target).bytes_sent == 0
    restore(run, target, snapshot="1")
    assert mode(target / "folder" / "tool") == 0o644
