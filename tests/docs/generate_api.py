"""Write docs/reference/api.md from the docstrings of every public name: `make reference`.

Nothing but `ckptsync` itself is imported, so that frameworks need not be there: names and docstrings are read from the source.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ckptsync

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "api.md"
EXAMPLES = ROOT / "docs" / "examples" / "api"
HEAD = """\
<!-- Written by tests/docs/generate_api.py; `make reference` writes it anew. -->

# Python

What `import ckptsync` offers, the policies, and the integrations. Every example on this page is run by the tests. Errors and exit codes are told
together in [Exit codes](exit-codes.md), options in [Options](configuration.md).
"""
TITLES = {
    "ckptsync.api": "Save and restore",
    "ckptsync.manager": "In a training loop",
    "ckptsync.policy": "When to save, what to keep",
    "ckptsync.cadence": "Policies that learn",
    "ckptsync.verbs.ranks": "Many ranks",
    "ckptsync.readiness.marker": "Say that a checkpoint is whole",
    "ckptsync.directory": "A directory that a framework writes",
    "ckptsync.readiness.base": "A checkpoint that is whole",
    "ckptsync.errors": "Errors",
    "ckptsync.options": "Configuration",
}
FURTHER = {
    "ckptsync.policy": ("Candidate", "KeepPolicy", "Moment", "SavePolicy", "AnyOf"),
    "ckptsync.directory": ("SyncedDirectory",),
    "ckptsync.readiness.base": ("Ready",),
}
"""Public beside `ckptsync.__all__`: what who writes a policy or an integration needs. Of cadence and the integrations, all is."""
WHOLE = ("ckptsync.cadence",)
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Source|Sources|Example):[ ]*(.*)$")
_WIDTH = 110
Definition = ast.ClassDef | ast.FunctionDef


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A public name.

    Attributes:
        module: to import it from.
        home: the module whose file defines it.
        definition: its source.
    """

    module: str
    home: str
    definition: Definition

    @property
    def name(self) -> str:
        """Without its module."""
        return self.definition.name


def file_of(module: str) -> Path:
    """Where a module's source lies."""
    place = ROOT.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def definitions(module: str) -> dict[str, Definition]:
    """Public classes and functions that a module defines; those of its `__all__` where it has one."""
    body = ast.parse(file_of(module).read_text()).body
    found = {node.name: node for node in body if isinstance(node, Definition) and not node.name.startswith("_")}
    for node in body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
            told = ast.literal_eval(node.value)
            return {name: found[name] for name in told if name in found}
    return found


def public() -> dict[str, list[Name]]:
    """Every public name by the module that defines it, in the order of the page."""
    found: dict[str, list[Name]] = {home: [] for home in TITLES}
    for home, names in ckptsync._HOMES.items():
        known = definitions(home)
        found.setdefault(home, []).extend(Name(module="ckptsync", home=home, definition=known[name]) for name in names)
    for home, further in FURTHER.items():
        known = definitions(home)
        found[home] += [Name(module=home, home=home, definition=known[name]) for name in further]
    integrations = sorted(path.stem for path in (ROOT / "ckptsync" / "integrations").glob("[!_]*.py"))
    for home in (*WHOLE, *(f"ckptsync.integrations.{name}" for name in integrations)):
        found[home] = [Name(module=home, home=home, definition=node) for node in definitions(home).values()]
    return {home: names for home, names in found.items() if names}


# -- words ---------------------------------------------------------------------------------------------------------------


def prose(docstring: str) -> Iterator[str]:
    """A docstring in google style as Markdown: what it lists as lists, all else as it is."""
    section = ""
    for line in inspect.cleandoc(docstring).splitlines():
        if heading := _SECTION.match(line):
            section = heading[1]
            yield f"\n**{section}**{': ' + heading[2] if heading[2] else ''}\n"
        elif section and (item := re.match(r"^ {4}(\*{0,2}\w+): (.*)$", line)):
            yield f"- `{item[1]}`: {item[2]}"
        elif section and line.startswith("    "):
            yield f"  {line.strip()}" if section not in {"Returns", "Yields"} else line.strip()
        else:
            section = section if line.strip() or section in {"Args", "Attributes", "Raises"} else ""
            yield line


def signature(definition: Definition) -> str:
    """How it is called."""
    if isinstance(definition, ast.FunctionDef):
        return f"{definition.name}({_arguments(definition)})" + _returns(definition)
    own = {node.name: node for node in definition.body if isinstance(node, ast.FunctionDef)}
    if "__init__" in own:
        return f"{definition.name}({_arguments(own['__init__'])})"
    fields = [node for node in definition.body if isinstance(node, ast.AnnAssign) and _is_field(node)]
    if not fields or _is_error(definition):
        return definition.name
    keywords = "*, " if _only_keywords(definition) else ""
    return f"{definition.name}({keywords}{', '.join(map(_field, fields))})"


def _is_field(node: ast.AnnAssign) -> bool:
    """Whether a class's annotation is a field that callers may set."""
    return isinstance(node.target, ast.Name) and not node.target.id.startswith("_")


def _is_error(definition: ast.ClassDef) -> bool:
    """Whether it is raised rather than made."""
    return definition.name.endswith("Error")


def _only_keywords(definition: ast.ClassDef) -> bool:
    """Whether its fields are given by name."""
    told = [keyword for node in (*definition.decorator_list, definition) for keyword in getattr(node, "keywords", ())]
    return any(keyword.arg == "kw_only" and ast.unparse(keyword.value) == "True" for keyword in told)


def _field(node: ast.AnnAssign) -> str:
    """A field as it stands in a signature."""
    default = f" = {ast.unparse(node.value)}" if node.value else ""
    return f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"


def _arguments(function: ast.FunctionDef) -> str:
    """Its arguments, without the object they are of."""
    arguments = function.args
    if arguments.args and arguments.args[0].arg in {"self", "cls"}:
        arguments = ast.arguments(
            arguments.posonlyargs,
            arguments.args[1:],
            arguments.vararg,
            arguments.kwonlyargs,
            arguments.kw_defaults,
            arguments.kwarg,
            arguments.defaults,
        )
    return re.sub(r"(?<=[\w\]'\"])=(?=[\w'\"(\[{-])", " = ", ast.unparse(arguments))


def _returns(function: ast.FunctionDef) -> str:
    """What it gives back."""
    return f" -> {ast.unparse(function.returns)}" if function.returns else ""


def methods(found: Name) -> Iterator[ast.FunctionDef]:
    """Public methods that users call: not those by which a policy or an integration fits into what it is for."""
    definition = found.definition
    is_called = isinstance(definition, ast.ClassDef) and "Joinable" not in map(ast.unparse, definition.bases)
    if not is_called or (definition.bases and found.home.startswith("ckptsync.integrations.")):
        return
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node


# -- the page --------------------------------------------------------------------------------------------------------------


def example_of(home: str) -> Path:
    """Where the example of a module's names lies."""
    return EXAMPLES / f"{home.rpartition('.')[2]}.py"


def example(place: Path) -> Iterator[str]:
    """An example, its docstring as a sentence before it."""
    text = place.read_text()
    caption = ast.get_docstring(ast.parse(text)) or ""
    code = text.partition('"""\n')[2].strip()
    yield f"{caption}\n\n```python\n{code}\n```\n"


def section(found: Name) -> Iterator[str]:
    """One name: how it is called, and what its docstring says."""
    yield f"### {found.name}\n"
    bases = [ast.unparse(base) for base in getattr(found.definition, "bases", ())]
    if bases and isinstance(found.definition, ast.ClassDef) and _is_error(found.definition):
        yield f"Derived from `{'`, `'.join(bases)}`.\n"
    yield from called(signature(found.definition))
    yield from prose(ast.get_docstring(found.definition, clean=False) or "")
    made = [node for node in found.definition.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
    if isinstance(found.definition, ast.ClassDef) and made and not _is_error(found.definition):
        yield ""
        yield from prose(ast.get_docstring(made[0], clean=False) or "")
    yield ""
    for method in methods(found):
        decorators = {ast.unparse(node) for node in method.decorator_list}
        yield f"#### {found.name}.{method.name}\n"
        yield from called(method.name + _returns(method) if "property" in decorators else signature(method))
        yield from prose(ast.get_docstring(method, clean=False) or "")
        yield ""


def called(text: str) -> Iterator[str]:
    """A signature as a block; a long one with an argument a line."""
    if len(text) > _WIDTH:
        name, _, rest = text.partition("(")
        inside, _, end = rest.rpartition(")")
        text = "\n        ".join([f"{name}(", *(f"{one}," for one in _split(inside))]) + f"\n    ){end}"
    yield f"    {text}\n"


def _split(arguments: str) -> Iterator[str]:
    """Arguments between commas that stand in no brackets."""
    depth, begin = 0, 0
    for place, letter in enumerate(arguments):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            yield arguments[begin:place].strip()
            begin = place + 1
    yield arguments[begin:].strip()


def first_words(home: str) -> str:
    """What a module's docstring begins with, as a sentence."""
    return (ast.get_docstring(ast.parse(file_of(home).read_text())) or "").partition("\n")[0]


def page() -> str:
    """The whole page."""
    parts: list[str] = [HEAD]
    for home, names in public().items():
        integration = home.startswith("ckptsync.integrations.")
        parts.append(f"## {TITLES.get(home, home)}\n")
        modules: Sequence[str] = sorted({found.module for found in names})
        parts.append(f"{first_words(home)}\n" if integration else f"From `{'`, `'.join(modules)}`.\n")
        if example_of(home).exists():
            parts += example(example_of(home))
        for found in names:
            parts += section(found)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
