"""A published binding: where it comes from, and the JavaScript it has for each type."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_FETCH_TIMEOUT_S = 600.0


class BindingError(RuntimeError):
    """A binding cannot be fetched, or lacks what was asked of it."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A package of one provider.

    Attributes:
        package: its name for pip.
        version: of the package, pinned.
        provider: the provider's name, such as `google`.
        provider_version: what it was generated from.
    """

    package: str
    version: str
    provider: str
    provider_version: str

    def sources(self, folders: Iterable[str]) -> Mapping[str, str]:
        """JavaScript by folder of the binding, which are named after types: `storage-bucket`, `data-google-project`.

        Raises:
            BindingError: it cannot be fetched, has no such type, or is of another version of the provider.
        """
        wanted = {f"package/lib/{folder}/index.js": folder for folder in folders}
        found: dict[str, str] = {}
        with tarfile.open(fileobj=io.BytesIO(_bundle(self._wheel()))) as bundle:
            for member in bundle:
                if member.name == "package/package.json":
                    self._check(json.loads(_content(bundle, member)))
                elif member.name in wanted:
                    found[wanted[member.name]] = _content(bundle, member)
        if missing := sorted(set(wanted.values()) - set(found)):
            raise BindingError(f"{self.provider} {self.provider_version} has no {', '.join(missing)}")
        return found

    def _wheel(self) -> Path:
        """The package's file, fetched on first use."""
        folder = Path(os.environ.get("CKPTSYNC_TEST_SERVERS", ".venvs")) / "terraform-bindings" / self.version
        pattern = f"{self.package.replace('-', '_')}-{self.version}-*.whl"
        if not (found := next(folder.glob(pattern), None)):
            _fetch(f"{self.package}=={self.version}", folder)
            found = next(folder.glob(pattern))
        return found

    def _check(self, package: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
        """Make sure that it is of the provider it is taken for."""
        made_of = next((package[name]["provider"] for name in ("cdktn", "cdktf") if name in package), {})
        name, version = made_of.get("name", "").rpartition("/")[2], made_of.get("version")
        if (name, version) != (self.provider, self.provider_version):
            raise BindingError(f"{self.package} {self.version} was made of {name} {version}")


def _fetch(requirement: str, folder: Path) -> None:
    """Have pip put a wheel into a folder; one that is not whole does not appear there."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
    ]
    done = subprocess.run(
        [*pip, "--dest", folder, requirement],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_FETCH_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise BindingError(
            f"pip cannot fetch {requirement}, which the checks of the Terraform modules need:\n{done.stdout}"
        )


def _bundle(wheel: Path) -> bytes:
    """The npm package that lies in the wheel."""
    with zipfile.ZipFile(wheel) as file:
        (name,) = (name for name in file.namelist() if name.endswith(".jsii.tgz"))
        return file.read(name)


def _content(bundle: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    """Text of a file."""
    file = bundle.extractfile(member)
    if file is None:
        raise BindingError(f"{member.name} is no file")
    return file.read().decode()


GOOGLE = Binding("cdktn-provider-google", "21.1.0", "google", "8.7.0")
AWS = Binding("cdktf-cdktf-provider-aws", "20.1.0", "aws", "5.100.0")
