"""Every public name is documented, and has an example that the tests run."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

import ckptsync

ROOT = Path(__file__).parents[2]
GENERATOR = runpy.run_path(str(Path(__file__).with_name("generate_api.py")))
PUBLIC: list[tuple[str, Any]] = [(home, found) for home, names in GENERATOR["public"]().items() for found in names]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def used(source: str) -> set[str]:
    """Names that a piece of Python uses, beyond importing them."""
    nodes = list(ast.walk(ast.parse(source)))
    return {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }


def run_by_the_tests() -> set[str]:
    """Names used by blocks of pages, by examples, and by the scripts that tests of integrations start or import."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    found = [block for page in pages for block in BLOCK.findall(page.read_text())]
    folders = ("docs/examples", "tests/frameworks", "tests/integration")
    found += [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return set[str]().union(*map(used, found))


USED = run_by_the_tests()


@pytest.mark.parametrize(("home", "found"), PUBLIC, ids=[f"{home}.{found.name}" for home, found in PUBLIC])
def test_a_public_name_has_words_and_an_example(home: str, found: Any) -> None:
    assert ast.get_docstring(found.definition), f"{home}.{found.name} has no docstring"
    assert found.name in USED, f"{home}.{found.name} is used by no example; put one into docs/examples/api or a how-to"


def test_all_of_the_package_is_there() -> None:
    assert {found.name for _, found in PUBLIC if found.module == "ckptsync"} == set(ckptsync.__all__)


def test_docstrings_become_lists_and_keep_their_words() -> None:
    docstring = """Do it.

    More of it.

    Args:
        one: first
            and more.
        **rest: others.

    Returns:
        A thing: or none.

    Source: https://example.com/
    """
    lines = [line for line in "\n".join(GENERATOR["prose"](docstring)).splitlines() if line]
    assert lines == [
        "Do it.",
        "More of it.",
        "**Args**",
        "- `one`: first",
        "  and more.",
        "- `**rest`: others.",
        "**Returns**",
        "A thing: or none.",
        "**Source**: https://example.com/",
    ]


def test_signatures_are_those_of_the_source() -> None:
    def signature(source: str) -> str:
        (definition,) = ast.parse(source).body
        text: str = GENERATOR["signature"](definition)
        return text

    assert signature("def f(a, *, b: int = 1) -> str: ...") == "f(a, *, b: int = 1) -> str"
    assert signature("class C:\n    def __init__(self, a, *r, **k): ...") == "C(a, *r, **k)"
    assert signature("@dataclass(kw_only=True)\nclass C:\n    a: int\n    b: str = ''\n    _c: int = 0") == (
        "C(*, a: int, b: str = '')"
    )
    assert signature("class CError(Exception):\n    code: int = 3") == "CError"
