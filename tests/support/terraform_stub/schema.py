"""A provider's schema, in the form of `terraform providers schema -json`, out of its binding."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.terraform_stub.binding import Binding
from support.terraform_stub.javascript import Member, Struct, structs

_BLOCK = re.compile(r'^\s*(?P<kind>resource|data)\s+"(?P<type>\w+)"', re.MULTILINE)
_BASES = ("TerraformResource", "TerraformDataSource", "TerraformProvider")
_TYPES: Mapping[str, Any] = {
    "getStringAttribute": "string",
    "getNumberAttribute": "number",
    "getBooleanAttribute": "bool",
    "getListAttribute": ["list", "string"],
    "getNumberListAttribute": ["list", "number"],
    "getStringMapAttribute": ["map", "string"],
    "getNumberMapAttribute": ["map", "number"],
    "getBooleanMapAttribute": ["map", "bool"],
    "getAnyMapAttribute": ["map", "dynamic"],
    "interpolationForAttribute": "dynamic",
    "StringMap": ["map", "string"],
    "NumberMap": ["map", "number"],
    "BooleanMap": ["map", "bool"],
    "AnyMap": ["map", "dynamic"],
    "StringMapList": ["list", ["map", "string"]],
    "StringListMap": ["map", ["list", "string"]],
}
_NESTING = {"struct": "single"}


@dataclass(frozen=True, slots=True)
class Types:
    """Names of types.

    Attributes:
        resources: such as `google_storage_bucket`.
        data: such as `google_project`.
    """

    resources: frozenset[str]
    data: frozenset[str]


def used(folder: Path, provider: str) -> Types:
    """The types of a provider that configurations below a folder use."""
    found: dict[str, set[str]] = {"resource": set(), "data": set()}
    for path in sorted(folder.rglob("*.tf")):
        for match in _BLOCK.finditer(path.read_text()):
            if match["type"].startswith(f"{provider}_"):
                found[match["kind"]].add(match["type"])
    return Types(frozenset(found["resource"]), frozenset(found["data"]))


def schema(binding: Binding, types: Types) -> Mapping[str, Any]:
    """The schema of some types, and of the provider itself.

    Raises:
        BindingError: it cannot be had, or has no such type.
    """
    resources = {_folder(name, binding): name for name in types.resources}
    data = {f"data-{name.replace('_', '-')}": name for name in types.data}
    made = {folder: _of_type(source) for folder, source in binding.sources(["provider", *resources, *data]).items()}
    return {
        "provider": made["provider"],
        "resource_schemas": {name: made[folder] for folder, name in resources.items()},
        "data_source_schemas": {name: made[folder] for folder, name in data.items()},
    }


def _folder(name: str, binding: Binding) -> str:
    """Where the binding has a resource."""
    return name.removeprefix(f"{binding.provider}_").replace("_", "-")


def _of_type(source: str) -> Mapping[str, Any]:
    """Schema of the one type in a file."""
    found = structs(source)
    (top,) = (struct for struct in found.values() if struct.base.endswith(_BASES))
    return {"version": 0, "block": _block(top, found)}


def _block(struct: Struct, others: Mapping[str, Struct]) -> dict[str, Any]:
    """Schema of a block, and of all in it."""
    made: dict[str, Any] = {"attributes": {}, "block_types": {}}
    for name, member in struct.members.items():
        # What the provider may fill in is an attribute of objects, though it is written like blocks.
        if member.nesting and not member.flags.computed:
            made["block_types"][name] = _nested(member, others)
        else:
            made["attributes"][name] = _attribute(member, others)
    return made


def _nested(member: Member, others: Mapping[str, Struct]) -> dict[str, Any]:
    """Schema of a block in a block. How many there may be is known as one or any number."""
    made: dict[str, Any] = {
        "nesting_mode": _NESTING.get(member.nesting, member.nesting),
        "block": _block(_element(member, others), others),
    }
    if member.flags.required:
        made["min_items"] = 1
    if member.kind.endswith("OutputReference") and made["nesting_mode"] != "single":
        made["max_items"] = 1
    return made


def _attribute(member: Member, others: Mapping[str, Struct]) -> dict[str, Any]:
    """Schema of an attribute."""
    flags = {name: True for name in ("required", "optional", "computed") if getattr(member.flags, name)}
    return {"type": _type(member, others), **flags}


def _type(member: Member, others: Mapping[str, Struct]) -> Any:
    """Type of a value, as Terraform writes it."""
    simple = _TYPES.get(member.kind.rpartition(".")[2])
    if simple is not None:
        return ["set", simple[1]] if member.from_set else simple
    members = _element(member, others).members
    value = ["object", {name: _type(inner, others) for name, inner in members.items()}]
    if member.kind.endswith("OutputReference"):
        return ["list", value] if member.nesting else value
    collection = "map" if member.kind.endswith("Map") else "list"
    return ["set" if member.from_set else collection, value]


def _element(member: Member, others: Mapping[str, Struct]) -> Struct:
    """What a list, set or map of structures is made of, or the structure itself."""
    name = member.kind
    if not name.endswith("OutputReference"):
        name = f"{name.removesuffix('List').removesuffix('Map')}OutputReference"
    return others[name]


def selected(whole: Mapping[str, Any], provider: str, types: Types) -> Mapping[str, Any]:
    """The part of what `terraform providers schema -json` says that is about some types."""
    schemas: Mapping[str, Any] = whole["provider_schemas"][f"registry.terraform.io/hashicorp/{provider}"]
    wanted = {"resource_schemas": types.resources, "data_source_schemas": types.data}
    return {kind: {name: schemas[kind][name] for name in names} for kind, names in wanted.items()}
