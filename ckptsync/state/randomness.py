"""The states of the random-number generators that training draws from."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch

from ckptsync.state.savable import first_line


def captured() -> dict[str, Any]:
    """Return the state of Python's generator, of torch's on every device in use, and of numpy's when it is loaded.

    Only of what may be loaded with `weights_only`: numbers, text, lists and tensors.
    """
    version, numbers, following = random.getstate()
    found: dict[str, Any] = {"python": [version, list(numbers), following], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state_all()
    if (numpy := sys.modules.get("numpy")) is not None:
        name, keys, position, has_gauss, gauss = numpy.random.get_state(legacy=True)
        found["numpy"] = [name, keys.tolist(), int(position), int(has_gauss), float(gauss)]
    return found


def misfit(found: Any) -> str:
    """Tell why no generator can be set to a state; empty when they can. Tried on generators that nobody draws from."""
    try:
        version, numbers, following = found["python"]
        random.Random().setstate((version, tuple(numbers), following))  # noqa: S311  nothing is drawn
        torch.Generator().set_state(found["torch"].cpu())
        if "cuda" in found and torch.cuda.is_available():
            for state in found["cuda"][: torch.cuda.device_count()]:
                torch.Generator("cuda").set_state(state.cpu())
        if "numpy" in found and (numpy := sys.modules.get("numpy")) is not None:
            name, keys, position, has_gauss, gauss = found["numpy"]
            state = name, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, gauss
            numpy.random.RandomState().set_state(state)
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError) as error:
        return f"{type(error).__name__}: {first_line(error)}"
    return ""


def applied(found: dict[str, Any]) -> None:
    """Set the generators to a state that `captured` returned; what is not there now is left out."""
    version, numbers, following = found["python"]
    random.setstate((version, tuple(numbers), following))
    torch.set_rng_state(found["torch"].cpu())
    if "cuda" in found and torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), found["cuda"], strict=False):
            torch.cuda.set_rng_state(state.cpu(), device)
    if "numpy" in found and (numpy := sys.modules.get("numpy")) is not None:
        name, keys, position, has_gauss, gauss = found["numpy"]
        numpy.random.set_state((name, numpy.array(keys, dtype=numpy.uint32), position, has_gauss, gauss))
