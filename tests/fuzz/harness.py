"""Coverage-guided fuzzing of one target with atheris: `python tests/fuzz/harness.py TARGET [libFuzzer options]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["ckptsync"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Begin from the target's seeds; a finding ends it with exit code 77 and leaves the bytes in `build/fuzz`."""
    target = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], *sys.argv[2:], corpus], target.feed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
