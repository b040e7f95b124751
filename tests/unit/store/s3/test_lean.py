"""The short way to S3: what it sends is what the SDK sends, and what the SDK alone can do is left to it."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

import pytest
from support.scripted_s3 import ETAG, Open, Says, Service, refusal
from support.slow_server import Caller, SlowServer

from ckptsync.errors import ConflictError, DeniedError, NotFoundError, StoreError, TransientError
from ckptsync.store.base import Tag, Upload
from ckptsync.store.s3 import S3Store, client
from ckptsync.store.s3 import lean as lean_module
from ckptsync.store.s3.lean import SMALL_BODY_BYTES, LeanClient

KEYS = ["plain", "a b+c&d=e", "größe ☃ 100%2F.txt", "nested/./x//y", "tilde~star*!'()", "q?query#fragment"]
OWN = {"authorization", "x-amz-date", "amz-sdk-invocation-id", "amz-sdk-request"}
"""Of each request, or of the SDK's tries."""
OTHER = {"user-agent", "expect"}
"""The SDK tells which of its features were used, and asks also before it sends what fits into one packet."""
MOVED = Says(301, b"<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": "eu-west-1"})


def requests(store: S3Store, key: str) -> None:
    store.put(key, b"content", if_absent=True)
    store.put_part(Upload(key=key, id="u/1+ x"), 7, bytes(300 << 10))
    store.get(key, memoryview(bytearray(7)), offset=3, tag=Tag(ETAG))
    store.stat(key)


def script() -> list[Any]:
    content = Says(206, b"content", {"Content-Range": "bytes 3-9/10", "ETag": ETAG})
    return [Says(headers={"ETag": ETAG}), Says(headers={"ETag": ETAG}), content, Says(headers={"ETag": ETAG})]


@pytest.mark.parametrize("key", KEYS)
def test_it_sends_what_the_sdk_sends(
    open_s3: Open, service: Service, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    service.script = script()
    requests(open_s3(), key)
    lean, service.asked[:] = list(service.asked), []
    monkeypatch.setattr(client, "lean", lambda sdk, *_: sdk)
    service.script = script()
    requests(open_s3(), key)
    assert len(lean) == len(service.asked) == len(script())
    for ours, theirs in zip(lean, service.asked, strict=True):
        assert ours.headers["user-agent"].endswith(" ckptsync")
        assert ("expect" in ours.headers) is (len(ours.body) > SMALL_BODY_BYTES)
        signed = theirs.headers["authorization"].replace("amz-sdk-invocation-id;amz-sdk-request;", "")
        assert ours.headers["authorization"].partition("Signature=")[0] == signed.partition("Signature=")[0]
        for told in (ours, theirs):
            told.headers = {name: value for name, value in told.headers.items() if name not in OWN | OTHER}
        assert ours == theirs


def test_what_is_found_elsewhere_is_asked_of_the_sdk_from_then_on(open_s3: Open, service: Service) -> None:
    answered = Says(headers={"ETag": ETAG})
    service.script = [MOVED, answered]
    store = open_s3()
    store.put("k", b"content")
    store.put("k", b"content")
    assert [asked.body for asked in service.asked] == [b"content"] * 3
    assert ["amz-sdk-request" in asked.headers for asked in service.asked] == [False, True, True]


def test_what_is_found_nowhere_says_so(open_s3: Open, service: Service) -> None:
    service.script = [MOVED]
    with pytest.raises(StoreError, match="region eu-west-1"):
        open_s3().put("k", b"content")


def test_other_refusals_are_not_asked_about_again(open_s3: Open, service: Service) -> None:
    service.script = [Says(412, b"<Error><Code>PreconditionFailed</Code></Error>")]
    with pytest.raises(ConflictError):
        open_s3().put("k", b"content", if_absent=True)
    assert len(service.asked) == 1


def test_a_large_body_that_is_refused_is_not_sent(open_s3: Open) -> None:
    bodies: list[bytes] = []

    def refuse(caller: Caller) -> None:
        caller.sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        caller.sock.settimeout(0.3)
        with suppress(TimeoutError):
            bodies.append(caller.sock.recv(1))
        caller.sock.close()

    server = SlowServer(refuse)
    with pytest.raises(DeniedError):
        open_s3(endpoint_url=server.url).put("k", bytes(SMALL_BODY_BYTES + 1))
    server.close()
    assert set(bodies) <= {b""}


def test_whether_a_large_body_is_wanted_is_asked_at_first_and_for_some_time_after_a_refusal(
    open_s3: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, large = Says(headers={"ETag": ETAG}), bytes(SMALL_BODY_BYTES + 1)
    service.script = [taken, taken, Says(503, b"<Error><Code>SlowDown</Code></Error>"), taken, taken, taken]
    store, now_s = open_s3(), 1000.0
    monkeypatch.setattr(lean_module.time, "monotonic", lambda: now_s)
    for number in range(1, 7):
        now_s += 301.0 * (number == 6)
        with suppress(TransientError):
            store.put_part(Upload(key="k", id="u"), number, large)
    assert ["expect" in asked.headers for asked in service.asked] == [True, False, False, True, True, False]


def test_each_thread_asks_for_itself(open_s3: Open, service: Service) -> None:
    taken, large = Says(headers={"ETag": ETAG}), bytes(SMALL_BODY_BYTES + 1)
    service.script = [taken] * 3
    store = open_s3()
    store.put_part(Upload(key="k", id="u"), 1, large)
    other = threading.Thread(target=store.put_part, args=(Upload(key="k", id="u"), 2, large))
    other.start()
    other.join(30)
    store.put_part(Upload(key="k", id="u"), 3, large)
    assert ["expect" in asked.headers for asked in service.asked] == [True, True, False]


def test_a_proxy_is_the_sdks_business(open_s3: Open, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", service.url)
    monkeypatch.setenv("NO_PROXY", "")
    service.script = [Says(headers={"ETag": ETAG})]
    store = open_s3(endpoint_url="http://bucket.example.org:9000")
    for _ in range(3):
        store.put("k", b"content")
    assert [asked.headers["host"] for asked in service.asked] == ["bucket.example.org:9000"] * 3
    assert service.connections == 1


def test_connections_that_were_opened_serve_again(open_s3: Open, service: Service) -> None:
    service.script = [Says(headers={"ETag": ETAG}), refusal("NoSuchKey", 404), Says(200, b"content")]
    store, into = open_s3(), memoryview(bytearray(7))
    store.put("k", b"content")
    with pytest.raises(NotFoundError):
        store.get("k", into)
    for _ in range(2):
        assert store.get("k", into) == len(into)
    assert service.connections == 1


def test_amazon_is_addressed_by_host() -> None:
    connection = client.Connection("bucket", client.S3(region="eu-west-1"), client.Http(), connections=1)
    found: Any = connection.call("get", "k", lambda made: made)
    assert found._base_url == "https://bucket.s3.eu-west-1.amazonaws.com/"


@pytest.mark.parametrize("bucket", ["run--use1-az4--x-s3", "arn:aws:s3:us-west-2:123456789012:accesspoint/mine"])
def test_buckets_of_another_kind_are_left_to_the_sdk(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(client, "_set_pace", lambda found, _: made.append(found))
    connection = client.Connection(bucket, client.S3(region="us-west-2"), client.Http(), connections=1)
    with pytest.raises(ZeroDivisionError):
        connection.call("get", "k", lambda found: 1 // (not made.append(found)) and 1 // 0)  # type: ignore[func-returns-value]
    assert made
    assert not any(isinstance(one, LeanClient) for one in made)
