"""Every error is a `CkptsyncError`, and each that a program can do something about has a class of its own."""

from pathlib import Path

from ckptsync import (
    CheckpointManager,
    CkptsyncError,
    ConfigError,
    FencedError,
    IncompleteError,
    IntegrityError,
    NoSnapshotError,
    Rank,
    StoreError,
    restore,
    save,
)


def ends_with(error: type[CkptsyncError], action: object) -> CkptsyncError:
    """Do something that must fail, and return what it failed with."""
    try:
        action()  # type: ignore[operator]
    except error as found:
        return found
    raise AssertionError(f"that went well, without {error.__name__}")


Path("state.bin").write_bytes(b"one")
run = "errors-run"

ends_with(NoSnapshotError, lambda: restore(run, "restored"))  # start from zero
ends_with(ConfigError, lambda: save("state.bin", run, step=-1))  # mend the call

alone = Rank(rank=0, world=2, launch="start-1", timeout_s=0)
late = ends_with(IncompleteError, lambda: save("state.bin", "ranks-run", step=1, rank=alone))
assert isinstance(late, IncompleteError)
assert late.missing == (1,)  # rank 1 never came; nothing was committed

first, second = CheckpointManager(run), CheckpointManager(run)
first.save(1, state={"n": 1})
first.wait()
second.save(2, state={"n": 2})  # takes the run over
second.close()
first.save(3, state={"n": 3})
ends_with(FencedError, first.close)  # stop: a newer writer is at work

[weights] = Path(run).glob("data/*-000000000002-*/state.pt")
weights.chmod(0o644)
weights.write_bytes(weights.read_bytes()[::-1])
ends_with(IntegrityError, lambda: restore(run, "restored", snapshot=2))  # damaged; nothing was written
assert not Path("restored").exists()

assert StoreError("the service is down", op="put", attempts=10).exit_code == 3
