"""Whatever writes files can be saved behind its back: say when they are whole. The integrations of frameworks are made like this."""

from pathlib import Path

from ckptsync import LatestN
from ckptsync.directory import SyncedDirectory
from ckptsync.readiness.base import Ready
from ckptsync.transfer.source import SourceTree


class Numbered(SyncedDirectory):
    """Files `12.bin`, each of which is whole when there is a `12.done`."""

    def ready(self, tree: SourceTree) -> Ready | None:
        """Find the newest."""
        done = [int(Path(file.path).stem) for file in tree.files if file.path.endswith(".done")]
        if not done:
            return None
        return Ready(step=max(done), paths=frozenset({f"{max(done)}.bin", f"{max(done)}.done"}))


with Numbered("s3://bucket/numbered", "numbers", keep=LatestN(2)) as synced:
    for step in (1, 2, 3):
        Path("numbers").mkdir(exist_ok=True)
        Path(f"numbers/{step}.bin").write_text(f"weights of step {step}")
        Path(f"numbers/{step}.done").touch()
        assert synced.save()
    synced.wait()
    assert not synced.save()  # there is nothing newer

with Numbered("s3://bucket/numbered", "elsewhere") as synced:
    assert synced.restore() == 3
assert sorted(path.name for path in Path("elsewhere").iterdir()) == ["3.bin", "3.done"]
