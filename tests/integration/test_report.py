"""What a job that was killed leaves in a bucket is enough to tell what that cost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOOP = """
import sys, time
from ckptsync import CheckpointManager, EveryNSteps
state = {"n": 0}
with CheckpointManager(sys.argv[1], save=EveryNSteps(10)) as manager:
    start = manager.restore(state=state)
    print("start", start, flush=True)
    for step in range(start, int(sys.argv[2])):
        time.sleep(0.005)
        if manager.should_save(step):
            manager.save(step, state=state, metrics={"loss": 1 / (step + 1)})
            manager.wait()
        print("step", step, flush=True)
"""


def trained(url: str, *, steps: int, kill_at: int | None = None) -> int:
    """Train until the end or a step; where it began."""
    lines: list[str] = []
    with subprocess.Popen([sys.executable, "-c", LOOP, url, str(steps)], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line.strip())
            if line.strip() == f"step {kill_at}":
                process.kill()
                break
    return int(lines[0].split()[1])


def test_what_a_kill_cost_is_told_from_the_bucket(url: str, tmp_path: Path) -> None:
    trained(url, steps=100, kill_at=37)
    assert trained(url, steps=60) == 31
    command = [sys.executable, "-c", "from ckptsync.cli.main import main; main()", "report", url, "--json"]
    command += ["--html", str(tmp_path / "page.html")]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert [point["step"] for point in told["snapshots"]] == [0, 10, 20, 30, 40, 50]
    (stop,) = told["interruptions"]
    assert (stop["kind"], stop["last_step"], stop["resumed_step"]) == ("restart", 30, 30)
    assert 0 < stop["resume_s"] < stop["lost_s"] < stop["gap_s"]
    first, second = told["processes"]
    assert (first["saves"], second["saves"]) == (4, 2)
    assert 0 < told["share"]["stalled_s"] < told["share"]["wall_s"]
    assert 0 < told["share"]["percent"] < 100
    assert told["exposure"]["worst_step"] == 40
    assert told["bill"]["bytes_stored"] > 0
    assert (told["bill"]["storage_month"] > 0) == url.startswith(("s3:", "gs:"))
    assert (tmp_path / "page.html").read_text().count("<svg") == 4
