"""What a check of the user's own may return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ckptsync import names
from ckptsync.errors import ConfigError
from ckptsync.manager import CheckpointManager

Make = Callable[..., CheckpointManager]


@pytest.mark.parametrize("verdict", [None, True, np.bool_(True), torch.tensor(True), 1, np.ones(1) > 0])
def test_what_is_true_passes(make: Make, verdict: Any) -> None:
    with make(validate=lambda _: verdict) as manager:
        manager.save(1, n={"n": 1})
        manager.wait()
        assert list(names.all_aliases(manager._run.catalog)) == ["validated"]


@pytest.mark.parametrize("verdict", [False, np.bool_(False), torch.tensor(False), 0, "", "no"])
def test_what_is_false_and_text_fails(make: Make, verdict: Any) -> None:
    with make(validate=lambda _: verdict) as manager:
        manager.save(1, n={"n": 1})
        manager.wait()
        assert manager.latest() is None


@pytest.mark.parametrize("verdict", [torch.ones(3) > 0, np.ones(3) > 0])
def test_what_is_neither_is_no_verdict(make: Make, verdict: Any) -> None:
    with make(validate=lambda _: verdict) as manager:
        manager.save(1, n={"n": 1})
        with pytest.raises(ConfigError, match=r"neither true nor false, and there is no verdict: return one value"):
            manager.wait()
        assert manager.restore(n={}) == 2
        assert not names.all_aliases(manager._run.catalog)


def test_what_a_loop_dies_of_is_not_hidden_by_a_check_that_broke_down(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    def loop() -> None:
        with make(validate=lambda _: 1 / 0) as manager:
            manager.save(1, n={"n": 1})
            raise KeyError("the loop's own")

    with pytest.raises(KeyError, match="the loop's own"):
        loop()
    assert "broke down, and there is no verdict: ZeroDivisionError" in caplog.text
