"""Every module and example is formatted and valid, and its mocked plans are as they are said to be: `make test-terraform`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.terraform import MIRROR, OURS, MissingError, Terraform, aws_mirror, folders

FOLDERS = pytest.mark.parametrize("folder", folders())
_SUMMARY = re.compile(r"^(?:Success!|Failure!) (\d+) passed, (\d+) failed(?:, (\d+) skipped)?\.", re.MULTILINE)
_MESSAGE = re.compile(r'^\s*error_message\s*=\s*"(.*)"$', re.MULTILINE)
_ASSERTION = re.compile(r"^\s*assert {$", re.MULTILINE)
_VARIABLE = re.compile(r'^variable "(\w+)" {\n(.*?)^}$', re.MULTILINE | re.DOTALL)
_OUTPUT = re.compile(r'^output "(\w+)" {\n(.*?)^}$', re.MULTILINE | re.DOTALL)


def test_they_are_formatted(terraform: Terraform) -> None:
    terraform("", "fmt", "-check", "-recursive", "-diff")


@FOLDERS
def test_it_is_valid(terraform: Terraform, folder: str) -> None:
    assert "The configuration is valid" in terraform(folder, "validate").stdout


@FOLDERS
def test_mocked_plans_are_as_they_should_be(terraform: Terraform, folder: str) -> None:
    said = terraform(folder, "test").stdout
    found = _SUMMARY.search(said)
    assert found, said
    passed, failed, skipped = (int(count or 0) for count in found.groups())
    assert (passed > 0, failed, skipped) == (True, 0, 0), said


@FOLDERS
def test_every_assertion_says_what_it_found_wrong(folder: str) -> None:
    texts = [path.read_text() for path in (OURS / folder / "tests").glob("*.tftest.hcl")]
    messages = [found for text in texts for found in _MESSAGE.findall(text)]
    assert len(messages) == sum(len(_ASSERTION.findall(text)) for text in texts) > 0
    assert sorted(messages) == sorted(set(messages))


@FOLDERS
@pytest.mark.parametrize(("file", "block"), [("variables.tf", _VARIABLE), ("outputs.tf", _OUTPUT)])
def test_everything_is_described(folder: str, file: str, block: re.Pattern[str]) -> None:
    found = block.findall((OURS / folder / file).read_text())
    wanted = ("description", "type") if file == "variables.tf" else ("description",)
    lacking = [
        name for name, body in found if not all(re.search(rf"^  {word}\s+= ", body, re.MULTILINE) for word in wanted)
    ]
    assert found
    assert lacking == []


def test_a_wrong_plan_is_told(terraform: Terraform, tmp_path: Path) -> None:
    (tmp_path / "main.tf").write_text('output "answer" {\n  value = 41\n}\n')
    (tmp_path / "wrong.tftest.hcl").write_text(
        'run "wrong" {\n  assert {\n    condition     = output.answer == 42\n    error_message = "it is another"\n  }\n}\n'
    )
    with pytest.raises(AssertionError, match="it is another"):
        terraform(tmp_path, "test")


def test_a_missing_provider_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, str(tmp_path))
    with pytest.raises(MissingError, match="terraform providers mirror"):
        aws_mirror()
    (tmp_path / "registry.terraform.io/hashicorp/aws/5.100.0").mkdir(parents=True)
    assert aws_mirror() == tmp_path


def test_missing_terraform_is_told(terraform: Terraform, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="install Terraform"):
        terraform("", "version")
