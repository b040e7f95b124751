"""The stub of Google's provider tells the truth: made in the same way for AWS, it says what the AWS provider says of itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.terraform import OURS, Terraform
from support.terraform_stub.binding import AWS, GOOGLE, Binding, BindingError
from support.terraform_stub.schema import Types, schema, selected, used

_TYPES = used(OURS, "aws")
_KINDS = ("resource_schemas", "data_source_schemas")
_CONFIGURATION = """\
terraform {
  required_providers {
    google = {
      source = "hashicorp/google"
    }
  }
}

provider "google" {
  project = "a-project"
}

resource "google_storage_bucket" "made" {
  name     = "a-bucket"
  location = "EU"
%s}
"""


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> Iterator[str]:
    """Where two blocks differ. The binding does not tell whether what may be set is computed too, so that is left out."""
    for name in sorted(ours["attributes"].keys() | theirs.get("attributes", {}).keys()):
        yield from _compared(
            _attribute(ours["attributes"].get(name)),
            _attribute(theirs.get("attributes", {}).get(name)),
            f"{where}.{name}",
        )
    for name in sorted(ours["block_types"].keys() | theirs.get("block_types", {}).keys()):
        mine, other = ours["block_types"].get(name), theirs.get("block_types", {}).get(name)
        yield from _compared(_nested(mine), _nested(other), f"{where}.{name}")
        if mine and other:
            yield from differences(mine["block"], other["block"], f"{where}.{name}")


def _compared(mine: object, other: object, where: str) -> Iterator[str]:
    if mine != other:
        yield f"{where}: {mine} and not {other}"


def _attribute(found: Mapping[str, Any] | None) -> object:
    """What counts of an attribute."""
    if found is None:
        return None
    settable = next((word for word in ("required", "optional") if found.get(word)), "computed")
    return found.get("type"), settable


def _nested(found: Mapping[str, Any] | None) -> object:
    """What counts of a block in a block, less what is in it."""
    return found and [found["nesting_mode"], found.get("min_items", 0), found.get("max_items", 0)]


def counted(block: Mapping[str, Any]) -> int:
    """How many attributes and blocks there are."""
    inner = block["block_types"].values()
    return len(block["attributes"]) + len(inner) + sum(counted(found["block"]) for found in inner)


@pytest.fixture(scope="module")
def ours() -> Mapping[str, Any]:
    """The AWS provider's schema out of its binding, for the types that our modules use."""
    return schema(AWS, _TYPES)


def test_it_says_what_the_true_provider_says(ours: Mapping[str, Any], terraform: Terraform, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(
        f'terraform {{\n  required_providers {{\n    aws = {{\n      source  = "hashicorp/aws"\n      version = "{AWS.provider_version}"\n'
        "    }\n  }\n}\n"
    )
    theirs = selected(json.loads(terraform(tmp_path, "providers", "schema", "-json").stdout), "aws", _TYPES)
    found = [
        difference
        for kind in _KINDS
        for name, whole in theirs[kind].items()
        for difference in differences(ours[kind][name]["block"], whole["block"], name)
    ]
    assert found == []
    assert sum(counted(whole["block"]) for kind in _KINDS for whole in ours[kind].values()) > 100


@pytest.mark.parametrize("name", sorted(_TYPES.resources))
def test_a_lie_would_be_seen(ours: Mapping[str, Any], name: str) -> None:
    true = ours["resource_schemas"][name]["block"]
    for attribute in true["attributes"]:
        lie = copy.deepcopy(true)
        del lie["attributes"][attribute]
        assert len(list(differences(lie, true, name))) == 1
        lie["attributes"][attribute] = {**true["attributes"][attribute], "type": ["set", "number"]}
        assert len(list(differences(lie, true, name))) == 1
    for block in true["block_types"]:
        lie = copy.deepcopy(true)
        lie["block_types"][block]["max_items"] = 7
        assert len(list(differences(lie, true, name))) == 1


def test_newer_bindings_tell_what_is_computed() -> None:
    made = schema(GOOGLE, Types(frozenset({"google_storage_bucket"}), frozenset()))
    attributes = made["resource_schemas"]["google_storage_bucket"]["block"]["attributes"]
    assert attributes["name"] == {"type": "string", "required": True}
    assert attributes["requester_pays"] == {"type": "bool", "optional": True}
    assert attributes["project"] == {"type": "string", "optional": True, "computed": True}
    assert attributes["url"] == {"type": "string", "computed": True}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", ""),
        ('  colour = "red"\n', 'An argument named "colour" is not expected here.'),
        ("  soft_delete_policy {\n    days = 7\n  }\n", 'An argument named "days" is not expected here.'),
        ("  versioning {\n  }\n", 'The argument "enabled" is required'),
        ("  requester_pays = [1]\n", 'Inappropriate value for attribute "requester_pays": bool required'),
        ('  url = "https://example.org"\n', "url cannot be set"),
        ('  soft_delete_policy {\n    effective_time = "now"\n  }\n', "effective_time cannot be set"),
    ],
)
def test_terraform_finds_mistakes_with_it(terraform: Terraform, tmp_path: Path, written: str, said: str) -> None:
    (tmp_path / "main.tf").write_text(_CONFIGURATION % written)
    done = terraform(tmp_path, "validate", codes=(0, 1))
    assert (done.returncode, said in done.stderr) == (1 if said else 0, True)


def test_it_is_not_taken_for_a_provider(terraform: Terraform, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text(_CONFIGURATION % "")
    assert "Use mock_provider" in " ".join(terraform(tmp_path, "plan", codes=(1,)).stderr.split())


def test_what_is_not_in_the_binding_is_told() -> None:
    with pytest.raises(BindingError, match=r"google 8\.7\.0 has no lost-type"):
        GOOGLE.sources(["lost-type"])
    other = Binding(GOOGLE.package, GOOGLE.version, "google", "8.6.0")
    with pytest.raises(BindingError, match=r"was made of google 8\.7\.0"):
        other.sources(["provider"])
