"""What orbax writes, watched without a pause: whatever is called whole can be loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from frameworks.orbax.test_orbax import manager, state
from support.watching import Watching

pytestmark = pytest.mark.req(12)


def test_every_step_of_orbax_that_is_whole_can_be_loaded(tmp_path: Path) -> None:
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching, manager(tmp_path / "watched") as writing:
        for step in range(1, 9):
            writing.save(step, args=ocp.args.StandardSave(state(step)))
        writing.wait_until_finished()
    assert {ready.rule for ready, _ in watching.taken} == {"orbax"}
    assert {ready.step for ready, _ in watching.taken} >= {7, 8}
    for ready, place in watching.taken:
        assert ready.step is not None
        with manager(place) as reading:
            found = reading.restore(ready.step, args=ocp.args.StandardRestore(state(0)))
        assert np.array_equal(found["weights"], state(ready.step)["weights"])
