"""Take `no-run="..."` off the fences before the site is built: it speaks to tests/docs, and superfences knows no such option."""

import re
from typing import Any

_FENCE_TAG = re.compile(r'^([ \t]*`{3,}[^\n]*?)[ \t]+no-run="[^"\n]*"', re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page without the tags."""
    return _FENCE_TAG.sub(r"\1", markdown)
