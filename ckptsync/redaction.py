"""Credentials out of text: every error of ours, event and line of diagnosis goes through here."""

from __future__ import annotations

import re

_STANDS_FOR = "***"
_SCHEME = re.compile(r"://[^\s/'\"]{0,1024}@")
_PASSWORD_WITH_SLASH = re.compile(r"://[^\s/:@]{0,256}:(?![0-9]+(?:/|\b))[^\s@]{0,1024}@")
_PASSWORD = re.compile(r"[^\s/:@'\"=(]{1,256}:[^\s/@'\"]{1,1024}@")
_QUERY = re.compile(
    r"\b((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|GoogleAccessId|[a-z_-]{0,40}signature|sig|"
    r"[a-z_-]{0,40}token|[a-z_-]{0,40}secret[a-z_-]{0,40}|(?:api|access)[_-]?key(?:[_-]?id)?|password|passwd)"
    r"(?:=|%3D))[^&\s'\"]+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return the text without user names and passwords in addresses, and without what signs a presigned URL.

    Rather too much goes than too little: `a:b@` is masked wherever it stands.
    """
    if "@" in text:
        text = _PASSWORD_WITH_SLASH.sub(f"://{_STANDS_FOR}@", text)
        text = _SCHEME.sub(f"://{_STANDS_FOR}@", text)
        text = _PASSWORD.sub(f"{_STANDS_FOR}@", text)
    return _QUERY.sub(rf"\1{_STANDS_FOR}", text) if "=" in text or "%3" in text else text
