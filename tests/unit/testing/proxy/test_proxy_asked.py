from __future__ import annotations

import pytest
from support.tiny_http import Ask

from ckptsync.testing.proxy import Proxy
from ckptsync.testing.proxy.asked import changed_object
from ckptsync.testing.proxy.wire import Head

JSON = "/storage/v1/b/bucket/o"


@pytest.mark.parametrize(
    ("start", "changes"),
    [
        ("PUT /bucket/a/b%20c", "bucket/a/b c"),
        ("DELETE /bucket/k", "bucket/k"),
        ("POST /bucket/k?uploadId=u", "bucket/k"),
        ("POST /bucket/k?uploads", ""),
        ("PUT /bucket/k?partNumber=1&uploadId=u", ""),
        ("DELETE /bucket/k?uploadId=u", ""),
        ("GET /bucket/k", ""),
        ("HEAD /bucket/k", ""),
        ("POST /bucket?delete", ""),
        ("PUT /bucket", ""),
        (f"DELETE {JSON}/a%2Fb", "bucket/a/b"),
        (f"PATCH {JSON}/k", "bucket/k"),
        (f"GET {JSON}/k", ""),
        (f"GET {JSON}?prefix=a", ""),
        (f"POST {JSON}/a%2Fb/rewriteTo/b/other/o/c%2Fd?x=1", "other/c/d"),
        (f"POST {JSON}/k/compose", "bucket/k"),
        (f"POST /upload{JSON}?uploadType=media&name=a%2Fb", "bucket/a/b"),
        (f"POST /upload{JSON}?uploadType=multipart", ""),
    ],
)
def test_the_object_a_request_changes(start: str, changes: str) -> None:
    assert changed_object(Head(f"{start} HTTP/1.1", ())) == changes


def test_the_name_may_stand_in_the_body(proxy: Proxy, ask: Ask) -> None:
    body = (
        b'--x\r\nContent-Type: application/json\r\n\r\n{"name": "run/manifests/1", "size": 1}\r\n--x\r\n\r\n'
        + bytes(9000)
    )
    ask("POST", f"/upload{JSON}?uploadType=multipart", body)
    ask("POST", f"/upload{JSON}?uploadType=multipart", body[:90])
    assert [(entry.changes, entry.sent) for entry in proxy.log] == [
        ("bucket/run/manifests/1", len(body)),
        ("bucket/run/manifests/1", 90),
    ]
