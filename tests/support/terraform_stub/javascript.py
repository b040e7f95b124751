"""What a binding's generated JavaScript says of a type: one class for the type, and one for each block or object in it.

Generated code is regular, so that patterns are enough to read it. For each attribute there is a getter that names its kind, and a
setter and a way to reset it where it may be set:

    // name - computed: false, optional: true, required: false
    get displayName() {
        return this.getStringAttribute('display_name');
    }
    set displayName(value) {…}
    resetDisplayName() {…}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_CLASS = re.compile(r"^class (?P<name>\w+) extends (?P<base>[\w.]+) \{\n(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL)
_PLAIN = re.compile(
    r"get (?P<property>\w+)\(\) \{\s*return (?P<set>[\w.]+tolist\()?this\.(?P<getter>\w+)\('(?P<name>\w+)'\)",
)
_MADE = re.compile(
    r"_(?P<property>\w+) = new (?P<kind>[\w.]+)\(this, [\"'](?P<name>\w+)[\"'](?:, (?P<set>true|false))?\)",
)
_FLAGS = re.compile(
    r"// (?P<name>\w+) - computed: (?P<computed>\w+), optional: (?P<optional>\w+), required: (?P<required>\w+)",
)
_FUNCTION = re.compile(
    r"^function (?P<struct>\w+)ToHclTerraform\(struct\) \{\n(?P<body>.*?)^\}", re.MULTILINE | re.DOTALL
)
_METHOD = re.compile(r"^    synthesizeHclAttributes\(\) \{\n(?P<body>.*?)^    \}", re.MULTILINE | re.DOTALL)
_ROW = re.compile(
    r"^ +(?P<name>\w+): \{\s*value: [^\n]*\n\s*isBlock: (?P<block>true|false),\s*type: \"(?P<nesting>\w+)\","
    r"\s*storageClassType: \"(?P<storage>\w+)\"",
    re.MULTILINE,
)
_GETTERS = {
    "string": "getStringAttribute",
    "number": "getNumberAttribute",
    "boolean": "getBooleanAttribute",
    "stringList": "getListAttribute",
    "stringMap": "getStringMapAttribute",
}
"""By what tables call a kind; a provider's own class has no getters that name it."""


@dataclass(frozen=True, slots=True)
class Flags:
    """Who gives an attribute its value.

    Attributes:
        required: the configuration has to.
        optional: it may.
        computed: the provider may.
    """

    required: bool
    optional: bool
    computed: bool


@dataclass(frozen=True, slots=True)
class Member:
    """An attribute or block.

    Attributes:
        kind: the getter's name, as `getStringAttribute`, or the class that it is made of, as `StorageBucketCorsList`.
        from_set: it is a set.
        flags: as the binding says. Older ones do not say whether a value that may be set is computed too: it is taken to be.
        nesting: of a block: `list`, `set`, `map`, or `struct` for one that stands by itself; empty for an attribute.
    """

    kind: str
    from_set: bool
    flags: Flags
    nesting: str


@dataclass(frozen=True, slots=True)
class Struct:
    """What a class describes.

    Attributes:
        base: the class it extends.
        members: by the name they have in Terraform.
    """

    base: str
    members: Mapping[str, Member]


def structs(source: str) -> Mapping[str, Struct]:
    """Read all classes of a file, by name."""
    tables = _tables(source)
    found = {}
    for match in _CLASS.finditer(source):
        name, base, body = match["name"], match["base"], match["body"]
        key = "" if "synthesizeHclAttributes" in body else name.removesuffix("OutputReference").lower()
        rows = tables.get(key, [])
        found[name] = Struct(base, _settings(rows) if base.endswith("TerraformProvider") else _members(body, rows))
    return found


def _tables(source: str) -> Mapping[str, Sequence[re.Match[str]]]:
    """What is written of each member, by name of the structure in lower case; the type itself has the empty name."""
    bodies = {found["struct"].lower(): found["body"] for found in _FUNCTION.finditer(source)}
    bodies[""] = "".join(found["body"] for found in _METHOD.finditer(source))
    return {name: list(_ROW.finditer(body)) for name, body in bodies.items()}


def _settings(rows: Iterable[re.Match[str]]) -> Mapping[str, Member]:
    """Settings of a provider, less those that are blocks, of which its file says too little."""
    flags = Flags(required=False, optional=True, computed=False)
    return {
        row["name"]: Member(_GETTERS[row["storage"]], row["nesting"] == "set", flags, "")
        for row in rows
        if row["block"] == "false" and row["name"] != "alias"  # a word of Terraform's own
    }


def _members(body: str, rows: Iterable[re.Match[str]]) -> Mapping[str, Member]:
    """Members of a class."""
    nestings = {row["name"]: row["nesting"] for row in rows if row["block"] == "true"}
    told = {
        found["name"]: Flags(**{name: found[name] == "true" for name in ("required", "optional", "computed")})
        for found in _FLAGS.finditer(body)
    }
    found = {}
    for pattern, what in ((_PLAIN, "getter"), (_MADE, "kind")):
        for match in pattern.finditer(body):
            name = match["name"]
            from_set = match["set"] not in (None, "false")
            flags = told.get(name) or _guessed(body, match["property"], block=name in nestings)
            found[name] = Member(match[what], from_set, flags, nestings.get(name, ""))
    return found


def _guessed(body: str, name: str, *, block: bool) -> Flags:
    """Flags by what can be done with a property."""
    capital = name[0].upper() + name[1:]
    if f"reset{capital}()" in body:
        return Flags(required=False, optional=True, computed=not block)
    settable = f"set {name}(" in body or f"put{capital}(" in body
    return Flags(required=settable, optional=False, computed=not settable)
