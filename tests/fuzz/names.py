"""Print the targets, one a line, for the Makefile."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz.targets import TARGETS

sys.stdout.write("\n".join(TARGETS) + "\n")
