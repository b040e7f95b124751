"""A directory like the ones people save: one large file, many middling ones, and everything that is awkward."""

from __future__ import annotations

import os
import random
from pathlib import Path

import blake3

GIB = 1 << 30


def make_tree(root: Path, size_bytes: int) -> None:
    """Fill `root` with about `size_bytes`: three quarters in one file, the rest in 200, and the awkward ones."""
    dice = random.Random(7)
    (root / "shards" / "deep" / "er").mkdir(parents=True)
    (root / "nothing here").mkdir()
    _fill(root / "model.bin", size_bytes * 3 // 4, dice)
    small = size_bytes // 4 // 200
    for number in range(200):
        folder = root / "shards" / ("deep/er" if number % 3 else ".")
        _fill(folder / f"shard-{number:05d}.pt", dice.randrange(small // 3, small * 5 // 3), dice)
    (root / "empty").touch()
    (root / "größe ☃ + 100%2F.txt").write_text("unicode\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "shards" / "latest").symlink_to("shard-00000.pt")


def _fill(path: Path, size: int, dice: random.Random) -> None:
    """Write bytes that neither compress nor repeat."""
    with path.open("wb") as file:
        while size > 0:
            file.write(dice.randbytes(min(size, 8 << 20)))
            size -= 8 << 20


def fingerprint(root: Path) -> dict[str, str]:
    """What a tree holds: content of files, targets of links, permission bits."""
    found: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_dir():
            found[name] = f"dir {path.stat().st_mode & 0o777:o}"
        else:
            digest = blake3.blake3(max_threads=1).update_mmap(path).hexdigest() if path.stat().st_size else "empty"
            found[name] = f"{path.stat().st_mode & 0o777:o} {digest}"
    return found


def change(root: Path, share: float) -> int:
    """Overwrite a stretch of the large file and a few small ones; returns how many files were touched."""
    size = (root / "model.bin").stat().st_size
    with (root / "model.bin").open("r+b") as file:
        file.seek(size // 2)
        file.write(os.urandom(int(size * share)))
    for number in (1, 50):
        path = next(root.rglob(f"shard-{number:05d}.pt"))
        path.write_bytes(os.urandom(path.stat().st_size))
    return 3
