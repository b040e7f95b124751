"""What a module would make, as `terraform test` says it with providers that are mocked: nothing is asked of any cloud."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from support.terraform import Terraform

_TEST = 'mock_provider "google" {}\n\nrun "made" {}\n'


def made(terraform: Terraform, folder: Path, module: str, variables: Mapping[str, object]) -> list[dict[str, Any]]:
    """Apply a module of ours, as `gcp-bucket`, in an empty folder; its resources, less those of data."""
    source = terraform.tree / "modules" / module
    (folder / "main.tf.json").write_text(json.dumps({"module": {"made": {"source": str(source), **variables}}}))
    (folder / "versions.tf").write_text((source / "versions.tf").read_text())
    (folder / "made.tftest.hcl").write_text(_TEST)
    (found,) = _state(terraform, folder)["root_module"]["child_modules"]
    return [resource for resource in found["resources"] if resource["mode"] == "managed"]


def example(home: Path, name: str, variables: Mapping[str, object]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply an example, as `aws`, in an empty folder, with the mocks of its own test.

    Returns:
        its outputs by name; and the values of each resource by address, those of its modules included.
    """
    terraform = Terraform(home)
    folder = terraform.tree / "examples" / name
    test = folder / "tests" / "example.tftest.hcl"
    mocks, _, _ = test.read_text().partition("\nvariables {")
    test.write_text(f'{mocks}\nrun "made" {{}}\n')
    (folder / "terraform.tfvars.json").write_text(json.dumps(variables))
    state = _state(terraform, folder)
    outputs = {output: found["value"] for output, found in state["outputs"].items()}
    return outputs, {resource["address"]: resource["values"] for resource in _resources(state["root_module"])}


def _state(terraform: Terraform, folder: Path) -> dict[str, Any]:
    """What the only run of a test left."""
    said = [json.loads(line) for line in terraform(folder, "test", "-json", "-verbose").stdout.splitlines()]
    (state,) = (message["test_state"] for message in said if message["type"] == "test_state")
    return dict(state)


def _resources(module: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of a module and of all within."""
    yield from module.get("resources", ())
    for inner in module.get("child_modules", ()):
        yield from _resources(inner)
