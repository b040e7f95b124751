"""Directories as DeepSpeed writes them: a folder for each tag, then `latest`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptsync import LatestN
from ckptsync.errors import ConfigError, FencedError, IncompleteError, NoSnapshotError, NotDurableError
from ckptsync.events import Event, Kind
from ckptsync.integrations.deepspeed import CheckpointDirectory
from ckptsync.run import open_run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    return str(tmp_path / "bucket")


@pytest.fixture
def synced(bucket: str, folder: Path) -> Iterator[CheckpointDirectory]:
    with CheckpointDirectory(bucket, folder) as opened:
        yield opened


def write(folder: Path, step: int, *, ranks: int = 2) -> None:
    """What `save_checkpoint` leaves, in its order."""
    tag = f"global_step{step}"
    (folder / tag).mkdir(parents=True)
    (folder / tag / "mp_rank_00_model_states.pt").write_bytes(b"m%d" % step)
    for rank in range(ranks):
        (folder / tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").write_bytes(b"o%d" % step)
    (folder / "zero_to_fp32.py").write_text("print()")
    (folder / "latest").write_text(tag)


def manifests(run: str) -> list[Manifest]:
    """Of all snapshots, the newest first."""
    with open_run(run) as opened:
        found = list(opened.catalog.history())
        assert not any(verify(opened, manifest.snapshot).bad for manifest in found)
        return found


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_newest_tag_comes_back_with_latest(bucket: str, folder: Path, tmp_path: Path) -> None:
    with CheckpointDirectory(bucket, folder, keep=LatestN(2)) as synced:
        assert synced.restore() is None
        for step in (10, 20, 30):
            write(folder, step)
            assert synced.save(metrics={"loss": 1 / step}, meta={"host": "a"})
    newest, before = manifests(bucket)
    assert (newest.id.step, before.id.step, newest.meta) == (30, 20, {"host": "a"})
    with CheckpointDirectory(bucket, tmp_path / "elsewhere") as synced:
        assert synced.restore() == 30
        expected = {
            path: data
            for path, data in content(folder).items()
            if not path.startswith(("global_step1", "global_step2"))
        }
        assert content(tmp_path / "elsewhere") == expected
        assert not synced.save()  # it is there already
        write(tmp_path / "elsewhere", 40)
        assert synced.save()
        synced.wait()
        assert synced.restore(snapshot=20) == 20
        assert (tmp_path / "elsewhere/latest").read_text() == "global_step20"
        with pytest.raises(NoSnapshotError):
            synced.restore(snapshot=99)
    assert [manifest.id.step for manifest in manifests(bucket)] == [40, 30, 20]


def test_a_tag_is_saved_when_latest_names_it(synced: CheckpointDirectory, folder: Path, bucket: str) -> None:
    with pytest.raises(ConfigError, match="nothing to save"):
        synced.save()
    folder.mkdir()
    assert not synced.save()
    write(folder, 1)
    (folder / "global_step2").mkdir()
    (folder / "global_step2/mp_rank_00_model_states.pt").write_bytes(b"half")
    assert synced.save()
    synced.wait()
    (manifest,) = manifests(bucket)
    assert not any(file.path.startswith("global_step2") for file in manifest.files)
    (folder / "latest").write_text("global_step3")
    with pytest.raises(IncompleteError, match="global_step3"):
        synced.save()


@pytest.mark.parametrize("latest", [b"", b"../x", b"a/b", b"..", b"\xff"])
def test_what_is_no_tag_is_refused(synced: CheckpointDirectory, folder: Path, latest: bytes) -> None:
    write(folder, 1)
    (folder / "latest").write_bytes(latest)
    with pytest.raises(ConfigError, match="names no tag"):
        synced.save()


def test_a_tag_without_a_number_needs_a_step(synced: CheckpointDirectory, folder: Path, bucket: str) -> None:
    write(folder, 1)
    (folder / "global_step1").rename(folder / "best")
    (folder / "latest").write_text("best")
    with pytest.raises(ConfigError, match="step"):
        synced.save()
    assert synced.save(step=7)
    synced.wait()
    assert manifests(bucket)[0].id.step == 7


class Held:
    """Stops a save when it begins."""

    def __init__(self) -> None:
        self.began, self.goes_on = threading.Event(), threading.Event()

    def __call__(self, event: Event) -> None:
        if event.kind == Kind.PLANNED:
            self.began.set()
            assert self.goes_on.wait(60)


def test_files_may_go_while_they_are_saved(bucket: str, folder: Path, tmp_path: Path) -> None:
    held = Held()
    with CheckpointDirectory(bucket, folder, observer=held) as synced:
        write(folder, 1)
        before = content(folder)
        assert synced.save()
        assert held.began.wait(60)
        for file in (folder / "global_step1").iterdir():
            file.unlink()
        (folder / "global_step1").rmdir()
        write(folder, 2)
        held.goes_on.set()
        synced.wait()
        synced.directory = tmp_path / "elsewhere"
        assert synced.restore() == 1
    assert content(tmp_path / "elsewhere") == before


def test_what_is_written_to_while_it_is_saved_is_no_snapshot(bucket: str, folder: Path) -> None:
    held = Held()
    with CheckpointDirectory(bucket, folder, observer=held) as synced:
        write(folder, 1)
        assert synced.save()
        assert held.began.wait(60)
        with (folder / "global_step1/mp_rank_00_model_states.pt").open("r+b") as file:
            file.write(b"other")
        held.goes_on.set()
        with pytest.raises(IncompleteError, match="was written to"):
            synced.wait()
        assert not manifests(bucket)
        assert synced.save()  # it is tried again
    assert len(manifests(bucket)) == 1


def test_one_save_is_under_way_at_a_time(bucket: str, folder: Path) -> None:
    held = Held()
    with CheckpointDirectory(bucket, folder, busy="skip", observer=held) as synced:
        write(folder, 1)
        assert synced.save()
        assert held.began.wait(60)
        write(folder, 2)
        assert not synced.save()
        with pytest.raises(NotDurableError, match="step 1"):
            synced.wait(timeout_s=0.01)
        held.goes_on.set()
        synced.wait()
        assert synced.save()
    assert [manifest.id.step for manifest in manifests(bucket)] == [2, 1]
    with pytest.raises(ConfigError, match="closed"):
        synced.save()


def test_what_went_wrong_is_raised_by_the_next_call_and_at_the_end(bucket: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    synced = CheckpointDirectory(bucket, folder)
    write(folder, 1)
    synced.save()
    synced.wait()
    with open_run(bucket) as run:
        save(run, tmp_path / "other", step=5)  # a newer writer
    write(folder, 2)
    assert synced.save()
    with pytest.raises(FencedError):
        synced.save()
    assert synced.save()
    with pytest.raises(FencedError):
        synced.close()
    synced.close()


def test_wrong_arguments_are_refused(bucket: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match="busy"):
        CheckpointDirectory(bucket, folder, busy="never")  # type: ignore[arg-type]


def test_what_is_in_no_snapshot_is_put_aside_and_told(bucket: str, folder: Path) -> None:
    told: list[Event] = []
    with CheckpointDirectory(bucket, folder, observer=told.append) as synced:
        write(folder, 1)
        synced.save()
        synced.wait()
        write(folder, 2)
        assert synced.restore() == 1
    (notice,) = (event for event in told if event.kind == Kind.NOTICE)
    assert "in no snapshot" in notice.message
    assert (Path(notice.path) / "latest").read_text() == "global_step2"
    assert (folder / "latest").read_text() == "global_step1"


def test_what_is_being_written_is_looked_at_again(bucket: str, folder: Path) -> None:
    with CheckpointDirectory(bucket, folder) as synced:
        write(folder, 1)
        (folder / "global_step1").rename(folder / "aside")
        timer = threading.Timer(0.05, (folder / "aside").rename, [folder / "global_step1"])
        timer.start()
        assert synced.save()
        timer.join()


def test_each_snapshot_tells_what_the_loop_waited_for_and_what_it_resumed_from(bucket: str, folder: Path) -> None:
    with CheckpointDirectory(bucket, folder) as synced:
        for step in (1, 2):
            write(folder, step)
            synced.save()
    with CheckpointDirectory(bucket, folder) as synced:
        assert synced.restore() == 2
        write(folder, 3)
        synced.save()
    third, second, first = manifests(bucket)
    told = [manifest.cost.loop for manifest in (first, second, third)]
    assert [loop and (loop.saves, loop.resumed_from) for loop in told] == [(1, ""), (2, ""), (1, second.snapshot)]
    assert all(loop and 0 < loop.stall_s <= loop.stalled_s <= loop.running_s for loop in told)
    assert told[2]
    assert told[2].resume_s > 0
