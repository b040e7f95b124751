"""A directory in filesystem-mirror layout that holds the stub of Google's provider."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

from support.terraform_stub.binding import GOOGLE, Binding
from support.terraform_stub.schema import schema, used

_TESTS = Path(__file__).parents[2]
_TERRAFORM = _TESTS.parent / "terraform"
_PROGRAM = """\
#!/bin/sh
PYTHONPATH={tests} exec {python} -c 'from pathlib import Path; from support.terraform_stub.provider import serve
serve(Path("{schema}"))'
"""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def mirror(binding: Binding = GOOGLE, configurations: Path = _TERRAFORM) -> Path:
    """Make the directory, for the types that some configurations use; it is kept, and made anew when they use others.

    Raises:
        BindingError: the binding cannot be had, or knows no such type.
    """
    types = used(configurations, binding.provider)
    text = json.dumps(schema(binding, types), sort_keys=True)
    folder = Path(os.environ.get("CKPTSYNC_TEST_SERVERS", ".venvs")).absolute() / "terraform-bindings"
    made_of = "\0".join((text, str(_TESTS), sys.executable))
    place = folder / f"stub-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"
    if not place.is_dir():
        _make(place, binding, text)
    return place


def _make(place: Path, binding: Binding, text: str) -> None:
    """Make it beside its place, so that it appears whole; whoever comes second throws theirs away."""
    system = f"{sys.platform}_{_ARCHITECTURES.get(platform.machine(), platform.machine())}"
    inside = Path("registry.terraform.io") / "hashicorp" / binding.provider / binding.provider_version / system
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix="new-", dir=place.parent))
    (new / inside).mkdir(parents=True)
    (new / inside / "schema.json").write_text(text)
    program = new / inside / f"terraform-provider-{binding.provider}_v{binding.provider_version}"
    program.write_text(
        _PROGRAM.format(
            tests=shlex.quote(str(_TESTS)), python=shlex.quote(sys.executable), schema=place / inside / "schema.json"
        )
    )
    program.chmod(0o755)
    try:
        new.rename(place)
    except OSError:
        shutil.rmtree(new)
        if not place.is_dir():
            raise
