"""Signatures of requests for objects, whose bodies are not signed.

The SDK's signer writes the same ones, over objects of its own that cost ten times as much as the signature.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hmac
import time
from hashlib import sha256
from typing import TYPE_CHECKING

from ckptsync.clock import SYSTEM, Clock

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = "UNSIGNED-PAYLOAD"


class Signer:
    """Signs for one service in one region. Safe for many threads."""

    def __init__(self, host: str, region: str, *, clock: Clock = SYSTEM) -> None:
        """Sign requests that are sent to `host`, which names the port where it is not the usual one."""
        self._clock = clock
        self._host = host
        self._region = region
        self._key = ("", "", b"")  # of one secret and day

    def signed(
        self, credentials: ReadOnlyCredentials, method: str, path: str, query: str, headers: dict[str, str]
    ) -> dict[str, str]:
        """Return headers with those that prove who asks.

        Args:
            credentials: whose.
            method: as in `GET`.
            path: encoded.
            query: encoded and in order.
            headers: to be signed.
        """
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock.now()))
        all_signed = {**headers, "Host": self._host, "X-Amz-Date": now, "X-Amz-Content-SHA256": _UNSIGNED}
        if credentials.token:
            all_signed["X-Amz-Security-Token"] = credentials.token
        lines = sorted((name.lower(), value) for name, value in all_signed.items())
        names = ";".join(name for name, _ in lines)
        told = "".join(f"{name}:{' '.join(value.split())}\n" for name, value in lines)
        request = f"{method}\n{path}\n{query}\n{told}\n{names}\n{_UNSIGNED}"
        scope = f"{now[:8]}/{self._region}/s3/aws4_request"
        text = f"{_ALGORITHM}\n{now}\n{scope}\n{sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key_of(credentials.secret_key or "", now[:8]), text.encode(), "sha256").hex()
        all_signed["Authorization"] = (
            f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return all_signed

    def _key_of(self, secret: str, day: str) -> bytes:
        """Derive the day's key, once."""
        known_secret, known_day, key = self._key
        if (known_secret, known_day) != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = secret, day, key
        return key
