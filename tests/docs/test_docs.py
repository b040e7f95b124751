"""Links lead somewhere, and nothing names the machine or the registries it was written with."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
WRITTEN_BY_US = [
    path
    for part in ("ckptsync", "tests", "docs", ".ci", "terraform")
    for path in sorted((ROOT / part).rglob("*"))
    if path.suffix in {".py", ".md", ".sh", ".tf", ".toml", ".yml", ".yaml", ".txt"} or path.parent.name == ".ci"
] + [path for path in sorted(ROOT.iterdir()) if path.is_file() and path.name != ".git"]
REGISTRY = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|(?:deb|ftp)\.debian\.org|download\.pytorch\.org)"
)
MACHINE_PATH = re.compile(r"(?<![\w.$})~-])/(?:home|Users)/")


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site's slugify make it."""
    text = unicodedata.normalize("NFC", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(markdown: str) -> set[str]:
    """Anchors of a page."""
    tokens = MarkdownIt().parse(markdown)
    slugs = [slug(plain(tokens[i + 1])) for i, token in enumerate(tokens) if token.type == "heading_open"]
    seen: Counter[str] = Counter()
    found = set(re.findall(r'<a (?:id|name)="([^"]+)"', markdown))
    for name in slugs:
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def plain(inline: Token) -> str:
    """What a reader sees of a heading."""
    return "".join(child.content for child in inline.children or [] if child.type in {"text", "code_inline"})


def targets(markdown: str) -> Iterator[str]:
    """Where links and images point."""
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        for child in token.children or []:
            target = child.attrGet("href") if child.type == "link_open" else child.attrGet("src")
            if isinstance(target, str):
                yield target


def complaint(page: Path, target: str) -> str:
    """Tell what is wrong with a link; empty when nothing is."""
    parts = urlsplit(target)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme in {"https", "mailto"} or parts.hostname == "127.0.0.1" else "not https"
    if parts.path.startswith("/"):
        return "not relative"
    aim = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not aim.exists():
        return "nothing there"
    if parts.fragment and aim.suffix == ".md" and unquote(parts.fragment) not in anchors(aim.read_text()):
        return f"{aim.name} has no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    wrong = {target: why for target in targets(page.read_text()) if (why := complaint(page, target))}
    assert not wrong


@pytest.mark.parametrize("pattern", [REGISTRY, MACHINE_PATH], ids=["registry", "machine path"])
def test_nothing_names_where_it_was_written(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in WRITTEN_BY_US
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "docs/index.md"])
def test_the_papers_are_there(name: str) -> None:
    assert (ROOT / name).read_text().strip()


def test_a_wrong_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One `two` & three\n\n## Twice\n\n## Twice\n")
    markdown = """
[a](other.md) [b](other.md#one-two--three) [c](#here) [d](other.md#twice-1) [e](https://example.com/x)

| [f](gone.md) | ![g](gone.png) |
|---|---|
| [h](other.md#four) | [i](/etc) |

# Here
"""
    page.write_text(markdown)
    assert [target for target in targets(markdown) if complaint(page, target)] == [
        "gone.md",
        "gone.png",
        "other.md#four",
        "/etc",
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "is_found"),
    [
        (MACHINE_PATH, "see /" + "home/me/notes", True),
        (MACHINE_PATH, "cp '/" + "Users/x' .", True),
        (MACHINE_PATH, "in ~/notes, https://example.com/home/notes", False),
        (REGISTRY, "https://" + "pypi" + ".org/project/x", True),
        (REGISTRY, "https://cloud.google.com/storage", False),
    ],
)
def test_the_patterns_see(pattern: re.Pattern[str], text: str, is_found: bool) -> None:  # noqa: FBT001  parametrized
    assert bool(pattern.search(text)) is is_found
