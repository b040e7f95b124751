"""The blocks of the how-to page, which the documentation's own tests leave to this environment."""

from __future__ import annotations

import pytest
from docs.test_code_blocks import ROOT, Reader, blocks, reader

__all__ = ["reader"]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_blocks_do_what_the_page_says(reader: Reader) -> None:
    page = ROOT / "docs/how-to/train-with-lightning.md"
    reader.page = page.name
    followed = [block for block in blocks(page.read_text()) if block.language == "python"]
    assert len(followed) == 4
    for block in followed:
        reader.follow(block)
