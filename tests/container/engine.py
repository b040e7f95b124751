"""buildah and podman, with storage and settings of our own: nothing of the machine's is touched."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = "3.11"  # of the Debian that the base image is made of
BASE = f"docker.io/library/python:{PYTHON}-slim"
IMAGE = "localhost/ckptsync:test"
TOOLS = {"buildah": "buildah", "podman": "podman", "/usr/sbin/runc": "runc", "mmdebstrap": "mmdebstrap"}
_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[engine.runtimes]
runc = ["/usr/sbin/runc"]
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{0}/storage"
runroot = "{0}/run"
"""


def install() -> None:
    """Have the tools; as root on Debian they are installed where they are missing.

    Raises:
        RuntimeError: they are not there, and cannot be installed.
    """
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"{', '.join(missing)} must be installed for these tests, which need root")
    subprocess.run(["apt-get", "update", "-q"], check=True, capture_output=True)
    command = ["apt-get", "install", "-qy", "--no-install-recommends", *missing]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


@dataclass(frozen=True, slots=True)
class Engine:
    """Builds images and runs containers.

    Attributes:
        folder: for storage and settings.
    """

    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "containers.conf").write_text(_CONTAINERS)
        (self.folder / "storage.conf").write_text(_STORAGE.format(self.folder))

    @property
    def environ(self) -> dict[str, str]:
        """What leads the tools to our settings."""
        return {
            **os.environ,
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "BUILDAH_ISOLATION": "chroot",
        }

    def told(self, *command: str, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run a tool to its end; what it says when it fails must be seen."""
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.environ, **settings)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command[:4])} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done

    def podman(self, *arguments: str, check: bool = True) -> str:
        """What a call of podman prints."""
        return self.told("podman", *arguments, check=check).stdout.strip()

    def inspected(self, what: str, *kind: str) -> dict[str, Any]:
        """What podman knows of a container, or of an image."""
        found: list[dict[str, Any]] = json.loads(self.podman(*kind, "inspect", what))
        return found[0]

    def has(self, image: str) -> bool:
        """Whether an image is there."""
        return self.told("podman", "image", "exists", image, check=False).returncode == 0

    def make_base(self) -> None:
        """Make what stands for the slim Python image, from Debian's packages: no image registry is asked."""
        if self.has(BASE):
            return
        packages = "usr-is-merged,python3,python3-venv,ca-certificates,netbase,tzdata"
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
        slim = "rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/* $1/var/log/*"
        links = "for name in python python3; do ln -s /usr/bin/python3 $1/usr/local/bin/$name; done"
        tar = self.folder / "base.tar"
        self.told(
            *(
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
                "--aptopt=Apt::Install-Recommends false",
                f"--include={packages}",
                *excluded,
            ),
            *(f"--customize-hook={links}", f"--customize-hook={slim}", "bookworm", str(tar)),
        )
        changes = ["ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", 'CMD ["python3"]']
        self.podman("import", *(part for change in changes for part in ("--change", change)), str(tar), BASE)
        tar.unlink()

    def build(self) -> None:
        """Build the image of our Dockerfile."""
        pip = self.folder / "pip.conf"
        pip.write_text(f"[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n{_index()}")
        own = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
        shared = [f"{pip}:/etc/pip.conf:ro"]
        shared += [f"{own}:/etc/ssl/certs/ca-certificates.crt:ro"] if own and Path(own).is_file() else []
        self.told(
            *("buildah", "bud", "--layers", "--format", "docker", "--network", "host", "--pull-never", "--quiet"),
            *("--ulimit", "nofile=1024:1024", "--build-arg", f"PYTHON={PYTHON}"),
            *(part for one in shared for part in ("--volume", one)),
            *("--tag", IMAGE, str(ROOT)),
        )

    @contextmanager
    def container(self, *arguments: str) -> Iterator[str]:
        """A container that runs in the background, and is removed at the end."""
        name = self.podman("run", "--detach", "--pull", "never", *arguments)
        try:
            yield name
        finally:
            self.podman("rm", "--force", "--time", "0", name, check=False)

    def ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A container that ran to its end."""
        return self.told("podman", "run", "--rm", "--pull", "never", *arguments, check=False)


SAFE: Sequence[str] = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
)
"""How our image must be able to run."""


def _index() -> str:
    """Where this machine's pip looks for packages, where it is told."""
    done = subprocess.run(["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False)
    return f"index-url = {done.stdout.strip()}\n" if done.returncode == 0 and done.stdout.strip() else ""
