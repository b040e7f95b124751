"""Runs every python, bash and console block of README.md and docs/, page by page, top to bottom, as a reader would.

A page's blocks share one folder, one Python namespace and one shell environment. `s3://` and `gs://` stand for folders
beside it, so that no account is needed; blocks that need more say why they are not run: ```bash no-run="needs root".
In console blocks, lines after `$ ` are commands and the lines below them their output, where `...` stands for anything.
A command must succeed, unless the next one is `echo $?`.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN_LANGUAGES = {"python", "bash", "console"}
SPELLED_OTHERWISE = {"py", "python3", "pycon", "sh", "shell", "zsh", "terminal", "shell-session", "shellsession"}
BLOCK_TIMEOUT_S = 300
SENTINEL = "--8<-- status"
NO_RUN = re.compile(r'\bno-run(?:="(?P<reason>[^"]*)")?')
CLOUD_URL = re.compile(r"\b(s3|gs)://")
OURS = re.compile(r"(CKPTSYNC|AWS|GOOGLE|GCE|STORAGE|XDG)_|COV_|PYTEST_")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: first word of the fence.
        text: between the fences.
        line: 1-based line of the text's first line.
        no_run: why it is not run; None when it is.
    """

    language: str
    text: str
    line: int
    no_run: str | None


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a console block and what it prints, empty when the page does not say."""

    text: str
    output: str


def blocks(markdown: str) -> Iterator[Block]:
    """Blocks that can be run; the page is refused where it hides one."""
    fences = [token for token in MarkdownIt().parse(markdown) if token.type == "fence"]
    seen = {line for token in fences for line in range(*(token.map or (0, 0)))}
    for number, text in enumerate(markdown.splitlines()):
        if text.lstrip().startswith("```") and number not in seen:
            pytest.fail(f"line {number + 1}: GitHub takes no fence here; move it out")
    for token in fences:
        line = token.map[0] + 2 if token.map else 0
        language = token.info.split(" ", 1)[0].strip()
        if language in SPELLED_OTHERWISE or (not language and token.content.startswith("$ ")):
            pytest.fail(f"line {line}: call it python, bash or console, so that it is run")
        if language in RUN_LANGUAGES:
            tag = NO_RUN.search(token.info)
            yield Block(language, token.content, line, (tag["reason"] or "") if tag else None)


def commands(text: str) -> list[Command]:
    """Commands of a console block."""
    found: list[Command] = []
    continued = False
    for line in text.splitlines():
        if continued:
            found[-1] = Command(found[-1].text + "\n" + line.removeprefix("> "), "")
        elif line.startswith("$ "):
            found.append(Command(line[2:], ""))
        else:
            assert found, f"a console block begins with `$ `, not with {line!r}"
            found[-1] = Command(found[-1].text, found[-1].output + line + "\n")
            continue
        continued = line.endswith("\\")
    return found


@dataclass
class Reader:
    """Somebody who follows a page in an empty folder."""

    folder: Path
    page: str
    namespace: dict[str, object] = field(default_factory=lambda: {"__name__": "__main__"})

    @property
    def here(self) -> Path:
        """The folder they stand in."""
        return self.folder / "here"

    def environ(self) -> dict[str, str]:
        """What their shell exports: nothing of this machine's clouds, and this environment's programs first."""
        kept = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "RUN": str(self.folder / "run"),
            "COLUMNS": "100",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }

    def localise(self, text: str) -> str:
        """Put folders where the page names buckets."""
        return CLOUD_URL.sub(lambda found: f"{self.folder}/{found[1]}/", text)

    def delocalise(self, text: str) -> str:
        """Put the buckets back."""
        return re.sub(rf"(?:file://)?{re.escape(str(self.folder))}/(s3|gs)/", r"\1://", text)

    def follow(self, block: Block) -> None:
        """Run one block; fails where the page is wrong."""
        if block.language == "python":
            source = "\n" * (block.line - 1) + self.localise(block.text)
            exec(compile(source, self.page, "exec"), self.namespace)  # noqa: S102  to run the page is the point
        elif block.language == "bash":
            self.shell([Command("set -eo pipefail\n" + block.text, "")], block)
        else:
            self.shell(commands(block.text), block)

    def shell(self, todo: list[Command], block: Block) -> None:
        """Run commands in one shell, which takes over directory and variables from the page's last one."""
        state, script, log = (self.folder / name for name in ("state", "script", "log"))
        lines = [
            f"exec 2>&1; [ ! -f '{state}' ] || . '{state}'",
            f'trap \'{{ export -p; printf "cd %q\\n" "$PWD"; }} > {state}\' EXIT',
        ]
        for command in todo:
            lines += [
                self.localise(command.text),
                f"_status=$?; printf '\\n{SENTINEL} %s\\n' $_status; (exit $_status)",
            ]
        script.write_text("\n".join(lines) + "\n")
        with log.open("wb") as file:
            process = subprocess.Popen(
                ["bash", str(script)],
                cwd=self.here,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                start_new_session=True,
            )
            try:
                process.wait(BLOCK_TIMEOUT_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what the page left in the background
                process.wait()
        self.compare(todo, self.delocalise(log.read_text(errors="replace")), f"{self.page}:{block.line}")

    @staticmethod
    def compare(todo: list[Command], log: str, where: str) -> None:
        """Hold what was printed against what the page says."""
        pieces = re.split(rf"\n{SENTINEL} (\d+)\n", log)
        assert len(pieces) == 2 * len(todo) + 1, f"{where}: the shell stopped early:\n{log}"
        asked_for = [command.text.strip() == "echo $?" for command in todo[1:]] + [False]
        checker = doctest.OutputChecker()
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        for command, printed, status, status_shown in zip(todo, pieces[::2], pieces[1::2], asked_for, strict=False):
            assert status == "0" or status_shown, f"{where}: `{command.text}` exits with {status}:\n{printed}"
            if command.output:
                agrees = checker.check_output(command.output, printed + "\n", flags)
                assert agrees, f"{where}: `{command.text}` should print\n{command.output}but prints\n{printed}"


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """Follows a page; what its blocks set in the environment ends with them."""
    before = dict(os.environ)
    found = Reader(tmp_path, "page.md")
    found.here.mkdir()
    (tmp_path / "home").mkdir()
    environ = found.environ()
    for name in [name for name in os.environ if OURS.match(name) and not name.startswith(("PYTEST_", "COV_"))]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(found.here)
    yield found
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_do_what_the_page_says(page: Path, reader: Reader) -> None:
    reader.page = str(page.relative_to(ROOT))
    for block in blocks(page.read_text()):
        if block.no_run is None:
            reader.follow(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_not_run_says_why(page: Path) -> None:
    unexplained = [
        block.line for block in blocks(page.read_text()) if block.no_run is not None and not block.no_run.strip()
    ]
    assert not unexplained, f'{page}: write no-run="the reason" on the fences above lines {unexplained}'


def follow(reader: Reader, markdown: str) -> None:
    for block in blocks(markdown):
        reader.follow(block)


def test_a_page_is_one_session(reader: Reader) -> None:
    follow(
        reader,
        """
```console
$ export GREETING=hello
$ mkdir inner && cd inner
```

- in a list:

  ```console
  $ echo "$GREETING from $(basename "$PWD")" \\
  >     to s3://bucket/run
  hello ... inner to s3://bucket/run
  $ false
  $ echo $?
  1
  ```

```bash
echo some > made-in-bash
```

```python
from pathlib import Path
count = len(Path("inner/made-in-bash").read_text())
```

```python
assert count == 5
```
""",
    )


@pytest.mark.parametrize(
    ("markdown", "complaint"),
    [
        ("```console\n$ echo one\ntwo\n```", "should print"),
        ("```console\n$ exit 3\n```", "stopped early"),
        ("```console\n$ false\n```", "exits with 1"),
        ("```console\nls\n```", "begins with"),
        ("```bash\nfalse\ntrue\n```", "stopped early"),
        ("```sh\ntrue\n```", "call it"),
        ("!!! note\n    ```bash\n    true\n    ```", "move it out"),
        ("```python\nassert 1 == 2, 'one is not two'\n```", "one is not two"),
    ],
)
def test_a_wrong_page_fails(reader: Reader, markdown: str, complaint: str) -> None:
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        follow(reader, markdown)
    assert complaint in str(caught.value)


def test_a_tag_without_a_reason_is_seen() -> None:
    tagged = list(blocks('```bash title="x" no-run="needs root"\ntrue\n```\n\n```bash no-run\ntrue\n```\n'))
    assert [block.no_run for block in tagged] == ["needs root", ""]
