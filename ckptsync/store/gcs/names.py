"""Where a run lies in Google Cloud Storage: object names, their addresses in both APIs, and what messages call them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from ckptsync.errors import ConfigError
from ckptsync.store.base import Upload
from ckptsync.store.gcs.errors import Asked

# Source: https://cloud.google.com/storage/docs/buckets#naming, https://cloud.google.com/storage/docs/objects#naming
# Google wants 3 characters, some emulators fewer
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?")
_NAME_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """A prefix in a bucket.

    Attributes:
        bucket: its name.
        prefix: without slashes at its ends; may be empty.
    """

    bucket: str
    prefix: str

    def __post_init__(self) -> None:
        if not _BUCKET.fullmatch(self.bucket):
            raise ConfigError(
                f"{self.bucket!r} cannot be the name of a bucket: at most 222 of a-z, 0-9, '-', '_' and '.', "
                "a letter or digit at both ends"
            )

    @property
    def url(self) -> str:
        """The run URL."""
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    def objects(self) -> str:
        """Path of the bucket's objects below the JSON API's own."""
        return f"/b/{self.bucket}/o"

    def asked(self, op: str, key: str) -> Asked:
        """Name a request for messages."""
        return Asked(op=op, key=key, bucket=self.bucket, where=f"{self.url}/{key}".rstrip("/"))

    def name(self, key: str) -> str:
        """Full object name of a key, or of a prefix of keys."""
        return f"{self.prefix}/{key}" if self.prefix else key

    def key(self, name: str) -> str:
        """Key of a full object name."""
        return name[len(self.prefix) + 1 :] if self.prefix else name

    def new_name(self, key: str) -> str:
        """Full name of an object to be made.

        Raises:
            ConfigError: the service takes no such name.
        """
        name = self.name(key)
        _quoted(name)
        if not key or key.startswith("/") or key.endswith("/"):
            raise ConfigError(f"key {key!r} cannot be used: it is empty, or begins or ends with a slash")
        if name in {".", ".."} or "\r" in name or "\n" in name or len(name.encode()) > _NAME_BYTES:
            raise ConfigError(f"key {key!r} cannot be used: Google Cloud Storage takes no such object name")
        return name

    def xml_path(self, key: str) -> str:
        """Path of an object in the XML API."""
        return f"/{self.bucket}/{_quoted(self.name(key))}"

    def json_path(self, key: str) -> str:
        """Path of an object below the JSON API's own."""
        return f"{self.objects}/{_quoted(self.name(key))}"

    def upload_path(self, upload: Upload, query: dict[str, str] | None = None) -> str:
        """Path and query of an unfinished upload, with more query parameters."""
        return f"{self.xml_path(upload.key)}?{urlencode({**(query or {}), 'uploadId': upload.id})}"


def _quoted(name: str) -> str:
    """Percent-encode a name as one path segment: slashes too, so that `..` and `//` stay as they are."""
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise ConfigError(f"key {name!r} cannot be used: it is not valid Unicode") from error
