"""What a checkpoint was made with, as far as it can be known without importing anything."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from ckptsync.snapshot.manifest import Provenance

_PACKAGES = ("ckptsync", "torch", "lightning", "transformers", "tensorflow", "jax")
_GIT_TIMEOUT_S = 2.0


def provenance(folder: Path, fingerprint: str = "") -> Provenance:
    """Describe this process: versions of Python and of the frameworks installed, CUDA, the git commit of `folder`.

    Args:
        folder: the working directory of the training code; one outside any git repository gives no commit.
        fingerprint: the caller's digest of its configuration, empty when there is none.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if cuda := _cuda(versions.get("torch", "")):
        versions["cuda"] = cuda
    return Provenance(versions=versions, git_commit=_git_commit(folder), config_fingerprint=fingerprint)


def _cuda(torch_version: str) -> str:
    """The CUDA version torch was built for: asked of torch where it is loaded, else read from its version's suffix."""
    loaded = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    if isinstance(loaded, str):
        return loaded
    build = torch_version.partition("+")[2]
    return f"{build[2:-1]}.{build[-1]}" if build.startswith("cu") and build[2:].isdigit() else ""


def _git_commit(folder: Path) -> str:
    """Commit checked out in a folder, with `-dirty` behind it when files differ; empty when there is none."""
    # Without locks: who ends amid it must leave none behind in somebody's repository.
    asked = ("status", "--porcelain=v2", "--branch", "--untracked-files=no")
    command = ["git", "--no-optional-locks", "-C", str(folder), *asked]
    try:
        found = subprocess.run(command, capture_output=True, timeout=_GIT_TIMEOUT_S, check=True, text=True)  # noqa: S603  fixed words and a path
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = found.stdout.splitlines()
    commit = next((line.rpartition(" ")[2] for line in lines if line.startswith("# branch.oid ")), "")
    differs = any(not line.startswith("#") for line in lines)
    if not commit or commit == "(initial)":
        return ""
    return f"{commit}-dirty" if differs else commit
