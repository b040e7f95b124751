"""What a module would make, as `terraform test` says it with providers that are mocked: nothing is asked of any cloud."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    said = [json.loads(line) for line in terraform(folder, "test", "-json", "-verbose").stdout.splitlines()]
    (state,) = (message["test_state"] for message in said if message["type"] == "test_state")
    (found,) = state["root_module"]["child_modules"]
    return [resource for resource in found["resources"] if resource["mode"] == "managed"]
