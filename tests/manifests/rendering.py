"""What kustomize makes of a folder, as far as our examples use it; anything else is refused, so that nothing is passed over."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
_KEYS = {"apiVersion", "kind", "resources", "patches"}
_BY_NAME = {"containers", "initContainers", "volumes", "env"}
_BY_PATH = {"volumeMounts": "mountPath", "ports": "containerPort"}


def read(path: Path) -> list[Object]:
    """Every object of a file."""
    return [found for found in yaml.safe_load_all(path.read_text()) if found]


def rendered(folder: Path) -> list[Object]:
    """Every object that a folder with a kustomization stands for.

    Raises:
        ValueError: it uses what is not known here.
    """
    (plan,) = read(folder / "kustomization.yaml")
    if unknown := plan.keys() - _KEYS:
        raise ValueError(f"{folder}: {unknown} is not known here")
    objects: list[Object] = []
    for name in plan["resources"]:
        path = folder / name
        objects += rendered(path) if path.is_dir() else read(path)
    for patch in plan.get("patches", ()):
        if patch.keys() != {"path"}:
            raise ValueError(f"{folder}: a patch is given by its path, and nothing else")
        for change in read(folder / patch["path"]):
            (target,) = (one for one in objects if _name(one) == _name(change))
            merged = _merged(target, change)
            objects[objects.index(target)] = merged
    return objects


def _name(found: Object) -> tuple[str, str, str]:
    return found["apiVersion"], found["kind"], found["metadata"]["name"]


def _merged(below: Object, above: Object) -> Object:
    """Strategic merge: mappings merge, lists of named things merge by name, other lists are replaced."""
    found = copy.deepcopy(below)
    for key, value in above.items():
        if value is None or (isinstance(value, dict) and "$patch" in value):
            raise ValueError(f"{key}: deletions are not known here")
        lower = found.get(key)
        if isinstance(value, dict) and isinstance(lower, dict):
            found[key] = _merged(lower, value)
        elif isinstance(value, list) and isinstance(lower, list) and (key in _BY_NAME or key in _BY_PATH):
            found[key] = _lists(lower, value, _BY_PATH.get(key, "name"))
        else:
            found[key] = copy.deepcopy(value)
    return found


def _lists(below: list[Object], above: list[Object], by: str) -> list[Object]:
    changes = {one[by]: one for one in above}
    merged = [_merged(one, changes.pop(one[by], {})) for one in below]
    return [*merged, *copy.deepcopy(list(changes.values()))]
