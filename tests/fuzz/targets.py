"""What is fed with bytes from strangers: one function each, and bytes it takes, from which mutations begin.

A target returns for whatever it is given; an exception that leaves it is a finding. Errors of our own tree are answers, not
findings, and what is decoded has to survive being encoded and decoded again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ckptsync.catalog import Catalog
from ckptsync.claims import Claim, Claims
from ckptsync.config import parse_duration, parse_size, resolve
from ckptsync.errors import CkptsyncError
from ckptsync.names import Alias, read_alias
from ckptsync.options import Config
from ckptsync.redaction import redacted
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import decode_attempt, encode_attempt
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.encoding import BLOCK_BYTES, Shuffle, packed_bound
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FORMAT, decode, encode, link_stays_inside
from ckptsync.store import open_store
from ckptsync.store.gcs import errors as gcs_errors
from ckptsync.store.gcs import json_api, xml_api
from ckptsync.store.memory import MemoryStore
from ckptsync.transfer.journal import Journal
from ckptsync.transfer.packing import pack, unpack

SHUFFLES: tuple[Shuffle, ...] = (1, 2, 4, 8)
ID = "00000001-000000000007-abcdefgh"
_BODY = (
    b'{"snapshot":"%s","commit_id":"c","created":"t","writer":{"host":"h","pid":1},"metrics":{"loss":0.5,"nan":null},'
    b'"entries":[{"type":"file","path":"d/f","size":3,"key":"data/x/f","part_bytes":2,"parts":["%s","%s"]},'
    b'{"type":"symlink","path":"l","target":"d/f"},{"type":"directory","path":"d","mode":493}]}'
) % (ID.encode(), b"0" * 64, b"1" * 64)


_PACKED = _BODY.replace(
    b'"]},{"type":"symlink"',
    b'"],"encoding":{"name":"zstd","shuffle":2,"ends":"000000000000000a0000000000000014"}},{"type":"symlink"',
)


def _sealed(body: bytes, version: int = 1) -> bytes:
    return b'{"blake3":"%s","format":"%s","manifest":%s,"version":%d}' % (
        part_digest(body).encode(),
        FORMAT.encode(),
        body,
        version,
    )


def manifest(data: bytes) -> None:
    """The object as it is."""
    with suppress(CkptsyncError):
        found = decode(data)
        assert decode(encode(found)) == found


def sealed_manifest(data: bytes) -> None:
    """The value of `manifest`, in an envelope whose digest is right: what a stranger would send."""
    manifest(_sealed(data))


def packed_manifest(data: bytes) -> None:
    """The same of the version that has packed files."""
    manifest(_sealed(data, 2))


def packed_part(data: bytes) -> None:
    """The stored bytes of a part, and how it is said to be shuffled; never more comes out than it is said to be."""
    head, stored = data[:1], memoryview(data[1:])
    shuffle = SHUFFLES[(head or b"\0")[0] % len(SHUFFLES)]
    size, left, room = 100_000, [stored], memoryview(bytearray(BLOCK_BYTES))

    def read(count: int) -> memoryview:
        piece, left[0] = left[0][:count], left[0][count:]
        return piece

    assert sum(len(piece) for piece in unpack(read, size, shuffle, room)) in {0, size}


def attempt(data: bytes) -> None:
    with suppress(CkptsyncError):
        found = decode_attempt(data)
        assert decode_attempt(encode_attempt(found)) == found
        assert all(key.startswith(layout.data_prefix(found.id)) for key in found.keys)


def claim(data: bytes) -> None:
    store = MemoryStore()
    store.put(layout.writer_key(1), data)
    found = Claims(store).writer(1)
    assert found is None or msgspec.json.decode(msgspec.json.encode(found), type=Claim) == found
    with suppress(CkptsyncError):
        Claims(store).check_not_fenced(0)


def alias(data: bytes) -> None:
    store = MemoryStore()
    store.put(layout.alias_key("best", 1), data)
    with suppress(CkptsyncError):
        found = read_alias(Catalog(store), "best")
        assert found is not None
        assert msgspec.json.decode(msgspec.json.encode(found), type=Alias) == found


def disk_journal(data: bytes) -> None:
    """What a kill or a bad disk left; the second reading is that of what the first one kept."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "journal.jsonl"
        place.write_bytes(data)
        descriptor = os.open(place, os.O_RDWR)
        try:
            first = Journal(descriptor, place)
            kept = place.read_bytes()
            assert data.startswith(kept)
            second = Journal(descriptor, place)
            assert (first.attempts, first.files) == (second.attempts, second.files)
        finally:
            os.close(descriptor)


def run_url(data: bytes) -> None:
    url = _text(data)
    with suppress(CkptsyncError):
        open_store(url, Config()).close()


def keys(data: bytes) -> None:
    """Every parser of keys; what one reads, it makes again."""
    text = _text(data)
    if (snapshot := layout.parse_snapshot_id(text)) is not None:
        assert str(snapshot) == text
    if (snapshot := layout.snapshot_of_manifest_key(text)) is not None:
        assert layout.manifest_key(snapshot) == text
    if (epoch := layout.epoch_of_writer_key(text)) is not None:
        assert layout.writer_key(epoch) == text
    if (version := layout.version_of_alias_key(text)) is not None:
        assert layout.alias_key(text.split("/")[1], version) == text
    if (known := layout.journal_of_key(text)) is not None:
        earlier, later = known
        assert (layout.adoption_key(earlier, later) if later else layout.journal_key(earlier)) == text
    with suppress(CkptsyncError):
        path = layout.check_path(text)
        assert not path.startswith("/")
        assert ".." not in path.split("/")
        layout.data_key(SnapshotId(1, 1, "abcdefgh"), path)
    head, _, target = text.partition("\n")
    link_stays_inside(head, target)


def options(data: bytes) -> None:
    """A TOML file."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        with suppress(CkptsyncError):
            found = resolve(environ={}, file=file.name)
            assert msgspec.convert(msgspec.to_builtins(found), Config) == found


def environment(data: bytes) -> None:
    """`NAME=VALUE` lines."""
    pairs = (line.partition("=") for line in _text(data).splitlines())
    with suppress(CkptsyncError):
        resolve(environ={name: value for name, _, value in pairs if name != "CKPTSYNC_CONFIG"})


def quantities(data: bytes) -> None:
    text = _text(data)
    for parse in (parse_size, parse_duration):
        with suppress(CkptsyncError):
            assert parse(text) >= 0


def gcs_json(data: bytes) -> None:
    for parse in (json_api.read_resource, json_api.read_listing, json_api.read_rewrite):
        with suppress(*gcs_errors.UNREADABLE):
            found = parse(data)
            for one in getattr(found, "items", None) or [getattr(found, "resource", None) or found]:
                if isinstance(one, json_api.Resource):
                    one.stat("key")
    json_api.header_hashes(_text(data))


def gcs_xml(data: bytes) -> None:
    for parse in (xml_api.parts_page, xml_api.uploads_page, xml_api.upload_id):
        with suppress(*gcs_errors.UNREADABLE):
            parse(data)
    xml_api.is_error(data)
    gcs_errors.read_refusal(400, {"retry-after": _text(data)}, data)


def redaction(data: bytes) -> None:
    text = _text(data)
    assert redacted(redacted(text)) == redacted(text)
    assert "hunter2" not in redacted(f"{text} https://user:hunter2@host")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what it takes."""

    feed: Callable[[bytes], None]
    seeds: tuple[bytes, ...]


def _packed(number: int) -> bytes:
    content = b"".join(number.to_bytes(4, "little") for number in range(25_000))
    return bytes(pack(memoryview(content), memoryview(bytearray(packed_bound(len(content)))), SHUFFLES[number]))


_WRITER = b'"writer":{"host":"h","pid":1}'
TARGETS: Mapping[str, Target] = {
    "manifest": Target(manifest, (_sealed(_BODY), _sealed(_BODY)[:-1] + b',"signature":{"key":"","value":""}}')),
    "sealed_manifest": Target(sealed_manifest, (_BODY,)),
    "packed_manifest": Target(packed_manifest, (_PACKED,)),
    "packed_part": Target(packed_part, tuple(bytes([number]) + _packed(number) for number in range(len(SHUFFLES)))),
    "attempt": Target(attempt, (b'{"snapshot":"%s","created":"","files":[["d/f",3]],%s}' % (ID.encode(), _WRITER),)),
    "claim": Target(claim, (b'{"epoch":1,"nonce":"n","created":"",%s}' % _WRITER,)),
    "alias": Target(alias, (b'{"name":"best","snapshot":"%s","version":1,"created":""}' % ID.encode(),)),
    "disk_journal": Target(
        disk_journal,
        (
            b'{"type":"attempt","snapshot":"%s"}\n{"type":"begun","path":"p","key":"k","upload":"u","part_bytes":5}\n'
            b'{"type":"part","path":"p","upload":"u","number":1,"size":5,"digest":"d","tag":"t","hashes":{}}\n'
            b'{"type":"finished","entry":{"type":"file","path":"q","size":0,"key":"k","part_bytes":0,"parts":[]}}\n'
            % ID.encode(),
        ),
    ),
    "run_url": Target(
        run_url,
        (
            b"s3://bucket/run",
            b"gs://bucket/run",
            b"file:///tmp/x",
            b"memory://x",
            b"relative/dir",
            b"https://u:p@[::1]:9/x?y#z",
            b"ftp://h:99999/x",
        ),
    ),
    "keys": Target(
        keys,
        (
            ID.encode(),
            layout.manifest_key(SnapshotId(1, 7, "abcdefgh")).encode(),
            layout.writer_key(3).encode(),
            layout.alias_key("best", 2).encode(),
            layout.journal_key(SnapshotId(1, 7, "abcdefgh")).encode(),
            layout.adoption_key(SnapshotId(1, 7, "abcdefgh"), SnapshotId(2, 7, "bbbbbbbb")).encode(),
            b"a/b/c\n../../d",
        ),
    ),
    "options": Target(
        options, (b'single_writer = true\n[transfer]\nworkers = 4\npart_bytes = "32MiB"\n[signing]\nrequire = "a:b"\n',)
    ),
    "environment": Target(
        environment, (b"CKPTSYNC_TRANSFER_WORKERS=4\nCKPTSYNC_RETRY_CAP_S=1e3\nCKPTSYNC_SIGNING_REQUIRE=a\n",)
    ),
    "quantities": Target(quantities, (b"1.5GiB", b"64 MB", b"10m", b"2d", b"999999999999999999.9w")),
    "gcs_json": Target(
        gcs_json,
        (
            b'{"items":[{"name":"n","size":"5","generation":"7","updated":"2026-01-02T03:04:05Z","crc32c":"AAAAAA=="}]}',
            b'{"name":"n","size":5,"generation":7,"updated":"2026-01-02T03:04:05.123+01:00","md5Hash":"AAAA"}',
            b'{"done":true,"rewriteToken":"t"}',
            b"crc32c=n03x6A==,md5=Ojk9c3dhfxgoKVVHYwFbHQ==",
        ),
    ),
    "gcs_xml": Target(
        gcs_xml,
        (
            (
                b"<ListPartsResult xmlns='x'><IsTruncated>true</IsTruncated><NextPartNumberMarker>2</NextPartNumberMarker>"
                b'<Part><PartNumber>1</PartNumber><ETag>"0123"</ETag><Size>5</Size></Part></ListPartsResult>'
            ),
            (
                b"<ListMultipartUploadsResult><Upload><Key>k</Key><UploadId>u</UploadId>"
                b"<Initiated>2026-01-02T03:04:05Z</Initiated></Upload></ListMultipartUploadsResult>"
            ),
            b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>",
            b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
            b'{"error":{"message":"no","errors":[{"reason":"forbidden"}]}}',
        ),
    ),
    "redaction": Target(redaction, (b"https://u:p@h/x?X-Amz-Signature=f00&a=b", b"a:b@c", b"token=x")),
}
