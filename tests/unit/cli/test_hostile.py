"""Links that leave the tree, through the command line: refused on the way in and on the way back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ckptsync.snapshot import layout
from ckptsync.snapshot.digest import part_digest

Call = Callable[..., Any]


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../..", "deep/../../x", "../source-beside/x"])
def test_a_link_that_leaves_the_tree_is_not_saved(call: Call, source: Path, target: str) -> None:
    (source / "way-out").symlink_to(target)
    done = call("save", source, "run", "--step", 1, exit_code=2)
    assert "way-out" in done.stderr
    assert not Path("run").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../..", "deep/../../x"])
def test_a_link_that_leaves_the_tree_is_not_restored(call: Call, source: Path, target: str) -> None:
    call("save", source, "run", "--step", 1)
    (place,) = Path("run", layout.MANIFESTS).iterdir()
    parts = msgspec.json.decode(place.read_bytes())
    parts["manifest"]["entries"].append({"type": "symlink", "path": "way-out", "target": target})
    body = msgspec.json.encode(parts["manifest"])
    place.chmod(0o600)
    place.write_bytes(msgspec.json.encode(parts | {"manifest": msgspec.Raw(body), "blake3": part_digest(body)}))
    assert "leaves the snapshot" in call("restore", "run", "back", exit_code=4).stderr
    assert not Path("back").exists()
    assert "leaves the snapshot" in call("restore", "run", "back", "--snapshot", 1, exit_code=4).stderr


@pytest.mark.parametrize(
    "arguments", [["agent", "s3://bucket/run", "folder"], ["run", "run", "--dir", "gs://bucket/run", "--", "true"]]
)
def test_a_url_in_the_place_of_a_directory_is_refused(call: Call, arguments: list[str]) -> None:
    assert "is no directory of this machine" in call(*arguments, exit_code=2).stderr
    assert list(Path().glob("*:*")) == []
