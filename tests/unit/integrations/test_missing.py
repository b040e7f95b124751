"""What is said when a framework is not installed."""

from __future__ import annotations

import importlib
import sys

import pytest

from ckptsync.errors import ConfigError


@pytest.mark.parametrize(("name", "framework"), [("keras", "keras"), ("ray", "ray")])
def test_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, name: str, framework: str) -> None:
    for module in [module for module in sys.modules if module.partition(".")[0] == framework]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"ckptsync.integrations.{name}", raising=False)
    with pytest.raises(ConfigError, match=rf"pip install 'ckptsync\[{'tensorflow' if name == 'keras' else name}\]'$"):
        importlib.import_module(f"ckptsync.integrations.{name}")


@pytest.mark.parametrize("name", ["tensorflow", "orbax", "deepspeed"])
def test_directories_are_read_without_the_framework(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for framework in ("tensorflow", "jax", "orbax", "deepspeed", "torch"):
        monkeypatch.setitem(sys.modules, framework, None)
    monkeypatch.delitem(sys.modules, f"ckptsync.integrations.{name}", raising=False)
    assert importlib.import_module(f"ckptsync.integrations.{name}").CheckpointDirectory
