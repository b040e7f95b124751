"""Runs whose names begin alike, or are awkward, side by side: what is done to one never touches another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.beds import quick
from support.tree import fingerprint

import ckptsync
from ckptsync.errors import ConfigError
from ckptsync.policy import LatestN
from ckptsync.run import open_run
from ckptsync.verbs.gc import collect
from ckptsync.verbs.remove import remove

pytestmark = pytest.mark.usefixtures("hurry")
NAMES = ["a", "a-1", "a-10", "a 1", "a%2F1", "a%201", "ä", "a.json", "a..b", "A"]


@pytest.fixture
def hurry() -> Iterator[None]:
    with quick():
        yield


def bucket(folder: Path) -> dict[str, dict[str, str]]:
    return {name: fingerprint(folder / name) for name in NAMES}


@pytest.mark.req(35)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_done_to_one_never_touches_another(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    runs, source = tmp_path / "runs", tmp_path / "source"
    source.mkdir()
    for other in NAMES:
        (source / "model.bin").write_text(other)
        for step in (1, 2):
            ckptsync.save(source, str(runs / other), step=step)
    before = bucket(runs)
    (source / "model.bin").write_text("changed")
    ckptsync.save(source, str(runs / name), step=3)
    with open_run(str(runs / name)) as run:
        collect(run, LatestN(1), grace_s=0, dry_run=False)
        assert [listed.id.step for listed in run.catalog.listed()] == [3]
        remove(run, "3")
        collect(run, LatestN(1), grace_s=0, dry_run=False)
        assert run.catalog.latest() is None
    after = bucket(runs)
    assert {one for one in NAMES if before[one] != after[one]} == {name}
    for other in NAMES:
        if other != name:
            ckptsync.restore(str(runs / other), tmp_path / "back" / "x")
            assert (tmp_path / "back" / "x" / "model.bin").read_text() == other


@pytest.mark.req(35)
@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket/run"])
def test_a_url_that_went_through_pathlib_is_refused_in_words(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"looks like a URL that went through pathlib; pass it as text: {url}"):
        ckptsync.restore(str(Path(url)), tmp_path / "back")
