"""The how-to page does what it says, with the packages that it needs."""

from __future__ import annotations

import pytest
from docs.test_code_blocks import ROOT, Reader, blocks, reader

__all__ = ["reader"]

PAGE = ROOT / "docs/how-to/train-with-transformers.md"


@pytest.mark.filterwarnings("default")  # of other people's packages
def test_blocks_do_what_the_page_says(reader: Reader) -> None:
    reader.page = PAGE.name
    ours = [block for block in blocks(PAGE.read_text()) if "make test-framework-transformers" in (block.no_run or "")]
    assert len(ours) == 3
    for block in ours:
        reader.follow(block)
