"""Terraform on a copy of ours, with providers from this machine's disk: it fetches nothing and leaves nothing in the repository.

    made = Terraform(tmp_path)
    made("modules/aws-bucket", "validate")

The AWS provider is taken from a filesystem mirror: the directory that CKPTSYNC_TEST_TF_MIRROR names, or the first of the
usual places that has it. Google's is a stub of ours, which support/terraform_stub makes.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

OURS = Path(__file__).parents[2] / "terraform"
MIRROR = "CKPTSYNC_TEST_TF_MIRROR"
_PLACES = ("~/.terraform.d/plugins", "/usr/local/share/terraform/plugins", "/usr/share/terraform/plugins", "/opt/*")
_AWS = "registry.terraform.io/hashicorp/aws"
_USES = re.compile(r'"hashicorp/(\w+)"')
_LEFT_OVERS = shutil.ignore_patterns(".terraform", ".terraform.lock.hcl", "*.tfstate*", "*.tfplan")
_TIMEOUT_S = 600.0


class MissingError(AssertionError):
    """What these tests cannot do without is not on this machine: they fail, and never pass it over."""


def folders() -> list[str]:
    """Every module and example, as `modules/aws-bucket`; Terraform takes each for itself."""
    found = [*OURS.glob("modules/*/"), *OURS.glob("examples/*/")]
    return sorted(str(folder.relative_to(OURS)) for folder in found if any(folder.glob("*.tf")))


def program() -> str:
    """Where Terraform is."""
    if found := shutil.which("terraform"):
        return found
    raise MissingError("terraform is not on PATH: install Terraform 1.9 or newer from its makers' package repository")


def aws_mirror() -> Path:
    """The directory in filesystem-mirror layout that holds the AWS provider."""
    given = os.environ.get(MIRROR)
    for place in [given] if given else _PLACES:
        path = Path(place).expanduser()
        for found in sorted(path.parent.glob(path.name)):
            if any(found.glob(f"{_AWS}/*")):
                return found
    raise MissingError(
        f"the AWS provider is not in {given or ', '.join(_PLACES)}: fill a directory with `terraform providers mirror DIR`, "
        f"run in a folder that asks for hashicorp/aws, and set {MIRROR}=DIR"
    )


class Terraform:
    """Terraform and a copy of our tree, in which it may leave what it likes.

    Attributes:
        tree: the copy; folders below it are called as below `terraform/`.
    """

    def __init__(self, home: Path) -> None:
        self.tree = home / "terraform"
        self._home = home
        self._begun: set[Path] = set()
        shutil.copytree(OURS, self.tree, ignore=_LEFT_OVERS)

    def __call__(
        self,
        folder: str | Path,
        *arguments: str,
        environ: Mapping[str, str] | None = None,
        codes: Collection[int] = (0,),
    ) -> subprocess.CompletedProcess[str]:
        """Run one command in a folder of the copy, or in one beside it that is named by its whole path.

        Args:
            folder: where; `terraform init` runs there once, before anything that needs it.
            arguments: such as `"plan", "-out=plan"`.
            environ: laid over what this process has without its own AWS, Google and Terraform settings.
            codes: with which it may end.

        Raises:
            AssertionError: it ended otherwise; what it said is in the message.
            MissingError: Terraform or a provider is not there.
        """
        where = self.tree / folder
        if arguments[0] not in {"init", "fmt", "version"} and where not in self._begun:
            self(folder, "init", "-input=false", "-backend=false")
            self._begun.add(where)
        done = subprocess.run(
            [program(), *arguments],
            cwd=where,
            env=self._environ(where) | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode in codes, f"terraform {' '.join(arguments)} in {folder}:\n{done.stdout}{done.stderr}"
        return done

    def _environ(self, folder: Path) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "GOOGLE_", "CLOUDSDK_", "TF_"))}
        return kept | {
            "TF_CLI_CONFIG_FILE": str(self._configuration(folder)),
            "TF_IN_AUTOMATION": "1",
            "TF_INPUT": "0",
            "TF_CLI_ARGS": "-no-color",
            "CHECKPOINT_DISABLE": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _configuration(self, folder: Path) -> Path:
        """A file that lets Terraform have the providers a folder asks for from the disk, and from nowhere else."""
        wanted = sorted({name for path in folder.glob("*.tf") for name in _USES.findall(path.read_text())})
        path = self._home / f"providers-{'-'.join(wanted)}.tfrc"
        if not path.exists():
            blocks = [_BLOCK.format(path=_mirror(name), name=name) for name in wanted]
            path.write_text(f"provider_installation {{\n{''.join(blocks)}}}\n")
        return path


_BLOCK = """\
  filesystem_mirror {{
    path    = "{path}"
    include = ["registry.terraform.io/hashicorp/{name}"]
  }}
"""


def _mirror(provider: str) -> Path:
    """The directory that holds a provider."""
    if provider == "aws":
        return aws_mirror()
    if provider in {"google", "google-beta"}:
        found: Path = importlib.import_module("support.terraform_stub").mirror()
        return found
    raise MissingError(f"no test knows where to take the provider hashicorp/{provider} from")
