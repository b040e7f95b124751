from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import pytest

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.options import Config, Gcs, Http
from ckptsync.store import _open
from ckptsync.store.base import PartTag, Tag, Upload
from ckptsync.store.gcs import GcsStore
from ckptsync.store.gcs import names as gcs_names
from ckptsync.store.gcs.http import Body
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.gcs.server import Fault, GcsServer, Kind, Request, Response

MIB = 1 << 20
ODD_KEYS = [
    "plain",
    "a b/c+d",
    "50%/2%2F",
    "x//y",
    "a/../b/./c",
    "ünï/日本/🦊",
    "q?x=1&y=2#frag",
    "amp&<tag>'\"",
    "~tilde!*()[]@:,;=$",
    "trailing.json",
]


@pytest.fixture
def server() -> Iterator[GcsServer]:
    with GcsServer(buckets=["bkt"], writes_per_s=None) as running:
        yield running


def open_store(server: GcsServer, prefix: str = "run") -> GcsStore:
    return GcsStore("bkt", prefix, Gcs(endpoint_url=server.url), Http(), connections=4)


@pytest.fixture
def store(server: GcsServer) -> Iterator[GcsStore]:
    with open_store(server) as opened:
        yield opened


def kinds(server: GcsServer) -> Counter[Kind]:
    return Counter(kind for _, kind, _ in list(server.requests))


def body(store: GcsStore, key: str, size: int, offset: int = 0, tag: Tag | None = None) -> bytes:
    into = bytearray(size)
    return bytes(into[: store.get(key, memoryview(into), offset=offset, tag=tag)])


def upload(store: GcsStore, key: str, *parts: bytes) -> tuple[Upload, list[PartTag]]:
    begun = store.begin(key)
    return begun, [store.put_part(begun, number, part) for number, part in enumerate(parts, 1)]


class TestObjects:
    @pytest.mark.parametrize("key", ODD_KEYS)
    @pytest.mark.parametrize("prefix", ["", "run", "a b/%2F+ü"])
    def test_odd_keys_come_back_as_they_are(self, server: GcsServer, key: str, prefix: str) -> None:
        with open_store(server, prefix) as store:
            made = store.put(key, key.encode())
            assert body(store, key, 99) == store.read(key) == key.encode()
            assert store.stat(key) == made
            assert list(store.list("")) == [made]
            assert store.copy(key, f"{key}.2").size == made.size
            begun, parts = upload(store, f"{key}.3", b"part")
            assert [found.key for found in store.uploads("")] == [f"{key}.3"]
            assert store.parts(begun)[1].tag == parts[0].tag
            assert store.finish(begun, parts).size == 4
            store.delete([key, f"{key}.2", f"{key}.3"])
            assert list(store.list("")) == []

    def test_a_stat_tells_what_the_service_vouches_for(self, store: GcsStore) -> None:
        made = store.put("k", b"123456789")
        assert (made.key, made.size) == ("k", 9)
        assert made.hashes == {"crc32c": "e3069283", "md5": hashlib.md5(b"123456789").hexdigest()}  # noqa: S324
        assert made.tag.isdecimal()
        assert made.modified_s > 1.7e9

    @pytest.mark.parametrize("data", [b"", b"x", bytearray(b"abc"), memoryview(b"abcdef")[1:4], bytes(600 << 10)])
    def test_any_buffer_can_be_put(self, store: GcsStore, data: bytes) -> None:
        assert store.put("k", data).size == len(data)
        assert store.read("k") == bytes(data)

    def test_wider_items_count_as_bytes(self, store: GcsStore) -> None:
        wide = memoryview(bytes(range(16))).cast("I")
        assert store.put("k", wide).size == 16
        into = memoryview(bytearray(16)).cast("Q")
        assert store.get("k", into) == 16
        assert into.tobytes() == bytes(range(16))

    def test_put_if_absent_has_one_winner(self, store: GcsStore) -> None:
        def race(number: int) -> bool:
            try:
                store.put("claim", str(number).encode(), if_absent=True)
            except ConflictError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(16)))
        assert won.count(True) == 1
        assert store.read("claim") == str(won.index(True)).encode()

    def test_wrong_bytes_are_refused_by_the_service(self, store: GcsStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ckptsync.store.gcs.store.crc32c", lambda _: 1)
        with pytest.raises(TransientError, match="damaged on its way"):
            store.put("k", b"data")
        with pytest.raises(TransientError, match="damaged on its way"):
            store.put_part(store.begin("big"), 1, b"data")
        monkeypatch.undo()
        assert list(store.list("")) == []

    @pytest.mark.parametrize(("offset", "size", "want"), [(0, 4, b"0123"), (6, 9, b"6789"), (10, 4, b""), (99, 4, b"")])
    def test_ranges(self, store: GcsStore, offset: int, size: int, want: bytes) -> None:
        store.put("k", b"0123456789")
        assert body(store, "k", size, offset) == want

    def test_nothing_of_nothing(self, store: GcsStore) -> None:
        made = store.put("k", b"")
        assert body(store, "k", 4) == body(store, "k", 0, tag=made.tag) == store.read("k") == b""
        with pytest.raises(ConflictError):
            body(store, "k", 0, tag=Tag("1"))
        with pytest.raises(NotFoundError):
            body(store, "missing", 0)

    @pytest.mark.parametrize("tag", ['"d41d8cd98f00b204e9800998ecf8427e"', "1-2-3", "-1"])
    def test_a_version_of_another_service_is_a_conflict(self, store: GcsStore, tag: str) -> None:
        """As where a run was moved here: the object must be looked up, not given up."""
        store.put("k", b"here")
        with pytest.raises(ConflictError):
            body(store, "k", 4, tag=Tag(tag))

    def test_a_pinned_read_of_a_replaced_object_is_a_conflict(self, store: GcsStore) -> None:
        old = store.put("k", b"old")
        assert body(store, "k", 3, tag=old.tag) == b"old"
        store.put("k", b"new")
        with pytest.raises(ConflictError):
            body(store, "k", 3, tag=old.tag)
        with pytest.raises(ConflictError):
            store.copy("k", "k2", tag=old.tag)
        store.delete(["k"])
        with pytest.raises(NotFoundError):
            body(store, "k", 3, tag=old.tag)

    def test_what_is_missing_is_not_found(self, store: GcsStore) -> None:
        for call in (store.stat, store.read, lambda key: body(store, key, 1), lambda key: store.copy(key, "k2")):
            with pytest.raises(NotFoundError, match="gs://bkt/run/missing is not there"):
                call("missing")
        store.delete(["missing", "missing"])

    def test_a_missing_bucket_is_called_so(self, server: GcsServer) -> None:
        with GcsStore("other", "run", Gcs(endpoint_url=server.url), Http(), connections=1) as store:
            for call in (
                lambda: store.put("k", b""),
                lambda: list(store.list("")),
                lambda: body(store, "k", 1),
                lambda: store.begin("k"),
                lambda: list(store.uploads("")),
            ):
                with pytest.raises(NotFoundError, match="no bucket 'other'"):
                    call()

    def test_a_body_cut_short_says_how_much_is_good(self, server: GcsServer, store: GcsStore) -> None:
        data = os.urandom(3 * MIB)
        store.put("k", data)
        server.after = lambda request, _: Fault(cut_bytes=2 * MIB) if request.kind is Kind.XML_GET else None
        into = bytearray(len(data))
        with pytest.raises(TransientError) as caught:
            store.get("k", memoryview(into))
        good = caught.value.received
        assert 0 < good <= 2 * MIB
        assert into[:good] == data[:good]
        server.after = None
        assert store.get("k", memoryview(into)[good:], offset=good) == len(data) - good
        assert into == data

    def test_a_flipped_bit_in_a_small_read_is_noticed(self, server: GcsServer, store: GcsStore) -> None:
        store.put("k", b"abcdefgh")

        def lie(_: Request, response: Response) -> None:
            if "x-goog-hash" in response.headers:
                response.headers["x-goog-hash"] = "crc32c=AAAAAA=="

        server.after = lie
        with pytest.raises(TransientError, match="damaged"):
            store.read("k")

    def test_a_copy_of_many_calls_is_one_copy(self) -> None:
        with GcsServer(buckets=["bkt"], writes_per_s=None, rewrite_bytes_per_call=MIB) as server:
            with open_store(server) as store:
                made = store.put("k", os.urandom(5 * MIB))
                copied = store.copy("k", "folder/k2", tag=made.tag)
                assert (copied.key, copied.size, copied.hashes) == ("folder/k2", made.size, made.hashes)
            assert kinds(server)[Kind.REWRITE] == 5

    def test_an_object_stored_gzipped_is_read_as_it_is_stored(self, store: GcsStore, server: GcsServer) -> None:
        store.put("k", b"\x1f\x8bnot really")

        def gzipped(request: Request, response: Response) -> None:
            assert request.headers["accept-encoding"] == "gzip"
            response.headers["Content-Encoding"] = "gzip"

        server.after = gzipped
        assert body(store, "k", 99, 2) == b"not really"
        assert store.read("k") == b"\x1f\x8bnot really"

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a\nb", "k" * 1021, "bad\udce9"])
    def test_keys_the_service_would_not_take(self, store: GcsStore, server: GcsServer, key: str) -> None:
        for call in (lambda: store.put(key, b""), lambda: store.begin(key), lambda: store.copy("k", key)):
            with pytest.raises(ConfigError):
                call()
        assert server.requests == []


class TestListing:
    def test_order_is_that_of_the_bytes(self, store: GcsStore) -> None:
        keys = ["b", "a/b", "a.b", "a", "z\U0001f98a", "zｱ", "é"]
        for key in keys:
            store.put(key, b"")
        assert [stat.key for stat in store.list("")] == sorted(keys, key=str.encode)

    def test_prefix_limit_and_after(self, store: GcsStore, server: GcsServer) -> None:
        for number in range(7):
            store.put(f"m/{number}", b"")
        store.put("n", b"")

        def listed(**options: object) -> list[str]:
            return [stat.key for stat in store.list("m/", **options)]  # type: ignore[arg-type]

        assert listed() == [f"m/{number}" for number in range(7)]
        assert listed(limit=2) == ["m/0", "m/1"]
        assert listed(after="m/4") == ["m/5", "m/6"]
        assert listed(after="m/44") == ["m/5", "m/6"]
        assert listed(after="a") == listed()
        assert listed(after="m/2", limit=3) == ["m/3", "m/4", "m/5"]
        assert listed(after="m/22", limit=3) == ["m/3", "m/4", "m/5"]
        assert listed(after="m/6", limit=1) == listed(after="z") == []
        before = len(server.requests)
        assert listed(limit=0) == []
        assert len(server.requests) == before
        assert listed(after="m/2", limit=1) == ["m/3"]
        assert len(server.requests) == before + 1

    @pytest.mark.req(35)
    def test_a_neighbouring_run_is_not_seen(self, store: GcsStore, server: GcsServer) -> None:
        store.put("k", b"")
        store.begin("k2")
        with open_store(server, "run2") as other:
            other.put("k", b"")
            other.begin("k2")
            assert [stat.key for stat in other.list("")] == ["k"]
        assert [stat.key for stat in store.list("")] == ["k"]
        assert [found.key for found in store.uploads("")] == ["k2"]

    def test_pages(self, store: GcsStore, server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ckptsync.store.gcs.store._PAGE", 10)
        keys = [f"{number:05d}" for number in range(23)]
        for key in keys:
            store.put(key, b"")
        for options, want in (
            ({}, keys),
            ({"after": "00000"}, keys[1:]),
            ({"limit": 15}, keys[:15]),
            ({"limit": 10}, keys[:10]),
            ({"limit": 10, "after": "00001"}, keys[2:12]),
            ({"limit": 11, "after": "00001"}, keys[2:13]),
        ):
            assert [stat.key for stat in store.list("", **options)] == want  # type: ignore[arg-type]
        before = kinds(server)[Kind.LIST]
        assert sum(1 for _ in store.list("")) == 23
        assert kinds(server)[Kind.LIST] - before == 3
        store.delete(keys)
        assert list(store.list("")) == []

    def test_pages_are_asked_for_one_by_one(self, store: GcsStore, server: GcsServer) -> None:
        store.put("k", b"")
        before = kinds(server)[Kind.LIST]
        listing = store.list("")
        assert kinds(server)[Kind.LIST] == before
        next(listing)
        assert kinds(server)[Kind.LIST] == before + 1


class TestMultipart:
    def test_parts_in_any_order_make_one_object(self, store: GcsStore, server: GcsServer) -> None:
        parts = [os.urandom(5 * MIB), os.urandom(5 * MIB + 1), b"end"]
        begun = store.begin("big")
        assert list(store.list("")) == []
        with ThreadPoolExecutor(3) as pool:
            tags = list(pool.map(lambda number: store.put_part(begun, number, parts[number - 1]), (3, 1, 2)))
        made = store.finish(begun, tags)
        whole = b"".join(parts)
        assert made == store.stat("big")
        assert (made.key, made.size) == ("big", len(whole))
        assert made.hashes == {"crc32c": f"{google_crc32c.value(whole):08x}"}
        assert body(store, "big", len(whole)) == whole
        assert kinds(server)[Kind.PARTS_PUT] == 3

    def test_another_process_sees_the_same_parts(self, store: GcsStore, server: GcsServer) -> None:
        begun, tags = upload(store, "big", os.urandom(5 * MIB), b"end")
        with open_store(server) as later:
            (found,) = later.uploads("b")
            assert (found.key, found.id) == (begun.key, begun.id)
            assert found.begun_s > 1.7e9
            listed = later.parts(found)
            assert {number: (part.size, part.tag) for number, part in listed.items()} == {
                tag.number: (tag.size, tag.tag) for tag in tags
            }
            assert listed[2].hashes == {"md5": hashlib.md5(b"end").hexdigest()}  # noqa: S324
            assert tags[1].hashes["md5"] == listed[2].hashes["md5"]
            assert later.vouches(listed[2].hashes, [b"end"])
            # without every part's CRC32C the size must do
            assert later.finish(found, listed.values()).size == 5 * MIB + 3
            assert list(later.uploads("")) == []

    def test_a_part_sent_again_replaces_the_first(self, store: GcsStore) -> None:
        begun, tags = upload(store, "big", b"old")
        again = store.put_part(begun, 1, b"newer")
        assert store.parts(begun) == {1: PartTag(number=1, size=5, tag=again.tag, hashes={"md5": again.hashes["md5"]})}
        with pytest.raises(IntegrityError, match="InvalidPart"):
            store.finish(begun, tags)
        assert store.finish(begun, [again]).size == 5

    def test_a_part_too_small_in_the_middle_is_refused(self, store: GcsStore) -> None:
        begun, tags = upload(store, "big", b"small", b"end")
        with pytest.raises(IntegrityError, match="EntityTooSmall"):
            store.finish(begun, tags)

    def test_pages_of_parts_and_uploads(self, store: GcsStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ckptsync.store.gcs.store._PAGE", 10)
        begun = store.begin("big")
        for number in range(1, 23):
            store.put_part(begun, number, b"%d" % number)
        for _ in range(21):
            store.begin("same key")
        listed = store.parts(begun)
        assert list(listed) == list(range(1, 23))
        assert listed[22].size == 2
        uploads = list(store.uploads(""))
        assert len({found.id for found in uploads}) == len(uploads) == 22

    @pytest.mark.parametrize("fault", [Fault(drop=True), Fault(status=500)])
    def test_finishing_again_after_a_lost_answer(self, store: GcsStore, server: GcsServer, fault: Fault) -> None:
        begun, tags = upload(store, "big", os.urandom(5 * MIB), b"end")
        server.after = lambda request, _: fault if request.kind is Kind.PARTS_COMPLETE else None
        with pytest.raises(TransientError):
            store.finish(begun, tags)
        server.after = None
        assert store.finish(begun, tags) == store.finish(begun, tags) == store.stat("big")

    def test_an_upload_that_is_gone_is_not_found_unless_the_object_fits(self, store: GcsStore) -> None:
        begun, tags = upload(store, "big", b"data")
        store.abort(begun)
        for call in (lambda: store.parts(begun), lambda: store.put_part(begun, 1, b"x")):
            with pytest.raises(NotFoundError, match="upload is gone"):
                call()
        with pytest.raises(NotFoundError, match="upload is gone"):
            store.finish(begun, tags)
        for other in (b"longer", b"atad"):
            store.put("big", other)
            with pytest.raises(NotFoundError, match="upload is gone"):
                store.finish(begun, tags)
        made = store.put("big", b"data")
        assert store.finish(begun, tags) == made

    def test_an_object_that_is_not_what_the_parts_make(self, store: GcsStore, server: GcsServer) -> None:
        begun, tags = upload(store, "big", b"data")

        def swap(request: Request, _: Response) -> None:
            if request.kind is Kind.PARTS_COMPLETE:
                server.after = None
                store.put("big", b"atad")

        server.after = swap
        with pytest.raises(IntegrityError, match="not what the parts make"):
            store.finish(begun, tags)

    def test_aborting_again_is_no_error(self, store: GcsStore) -> None:
        begun, _ = upload(store, "big", b"data")
        store.abort(begun)
        store.abort(begun)
        assert list(store.uploads("")) == []

    def test_no_delete_right_is_needed(self) -> None:
        with GcsServer(buckets=["bkt"], deny=["storage.objects.delete"]) as server, open_store(server) as store:
            begun, tags = upload(store, "big", os.urandom(5 * MIB), b"end")
            assert store.finish(begun, tags).size == 5 * MIB + 3
            store.put("manifest", b"{}", if_absent=True)
            with pytest.raises(DeniedError, match=r"storage\.objects\.delete"):
                store.delete(["big"])

    def test_parts_cannot_be_copied(self, store: GcsStore) -> None:
        assert not store.traits.copy_part
        with pytest.raises(UnsupportedError):
            store.copy_part(store.begin("big"), 1, "k", 0, 1)


class TestManners:
    def test_too_many_changes_of_one_name_are_throttling(self) -> None:
        with GcsServer(buckets=["bkt"], clock=FakeClock()) as server, open_store(server) as store:
            store.put("k", b"1")
            with pytest.raises(TransientError) as caught:
                store.put("k", b"2")
        assert caught.value.throttled

    def test_connections_are_kept(self, server: GcsServer, store: GcsStore) -> None:
        data = os.urandom(2 * MIB)
        for _ in range(3):
            store.put("k", data)
            assert body(store, "k", 2 * MIB) == data
            assert body(store, "k", MIB, MIB) == data[MIB:]
            assert store.read("k") == data
            with pytest.raises(NotFoundError):
                body(store, "missing", 9)
            assert body(store, "k", 9, 3 * MIB) == b""
        session = store._wire._live.session  # type: ignore[union-attr]
        pools = session.get_adapter(server.url).poolmanager.pools  # type: ignore[attr-defined]
        assert [pools[key].num_connections for key in pools.keys()] == [1]  # noqa: SIM118  it cannot be iterated

    def test_a_forked_child_opens_its_own_session(self, store: GcsStore, monkeypatch: pytest.MonkeyPatch) -> None:
        store.put("k", b"1")
        parents = store._wire._live
        child = os.getpid() + 1
        monkeypatch.setattr(os, "getpid", lambda: child)
        store._wire._lock = None  # type: ignore[assignment]  # a thread of the parent may have held it at the fork
        assert store.read("k") == b"1"
        assert store._wire._live is not parents

    def test_closing_twice_and_going_on(self, store: GcsStore) -> None:
        store.put("k", b"1")
        store.close()
        store.close()
        assert store.read("k") == b"1"

    @pytest.mark.parametrize("drop", [False, True])
    def test_no_buffer_is_kept_even_by_a_failure(
        self, store: GcsStore, server: GcsServer, tmp_path: Path, *, drop: bool
    ) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(3 * MIB))
        begun = store.begin("big")
        server.before = lambda _: Fault(drop=True) if drop else Fault(status=503)
        failures: list[StoreError] = []
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for send in (lambda view: store.put("k", view), lambda view: store.put_part(begun, 1, view)):
                view = memoryview(mapped)
                try:
                    send(view)
                except TransientError as error:
                    failures.append(error)
                view.release()
            mapped.close()  # BufferError if a slice were still lent
        assert len(failures) == 2

    def test_a_body_lends_the_callers_own_memory(self) -> None:
        data = bytearray(MIB + 1)
        sent = Body(b"head", data, b"")
        first = list(map(bytes, sent))
        assert b"".join(first) == b"head" + data
        assert len(sent) == len(b"head") + len(data)
        data[0] = 7
        assert next(view for view in sent if view.obj is data)[0] == 7
        assert list(map(bytes, sent)) != first
        sent.release()
        data.append(0)  # BufferError if a slice were still lent

    def test_where_a_store_is_opened_nothing_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:1")
        store = _open("gs://bkt/some/run/", Config(), FakeClock(), None)
        assert store.url == "gs://bkt/some/run"

    def test_the_emulator_variable_is_honoured(self, server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> None:
        for address in (server.url, server.url.removeprefix("http://"), f"{server.url}/"):
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
            with GcsStore("bkt", "run", Gcs(), Http(), connections=1) as store:
                assert list(store.list("")) == []

    @pytest.mark.parametrize("bucket", ["Upper", "-a", "a_", "a b", "ab/c", "x" * 223])
    def test_names_no_bucket_can_have(self, bucket: str) -> None:
        with pytest.raises(ConfigError, match="name of a bucket"):
            GcsStore(bucket, "", Gcs(), Http(), connections=1)

    @pytest.mark.parametrize("address", ["localhost:4443", "ftp://host", "https://"])
    def test_addresses_no_service_can_have(self, address: str) -> None:
        with pytest.raises(ConfigError, match="endpoint"):
            GcsStore("bkt", "", Gcs(endpoint_url=address), Http(), connections=1)

    def test_the_project_is_billed(self, server: GcsServer) -> None:
        seen: list[str] = []

        def note(request: Request) -> None:
            seen.append(request.headers.get("x-goog-user-project", ""))

        server.before = note
        options = Gcs(endpoint_url=server.url, project="payer")
        with GcsStore("bkt", "run", options, Http(), connections=1) as store:
            store.put("k", b"")
            store.read("k")
        assert seen == ["payer", "payer"]

    def test_no_password_of_a_netrc_file_is_sent(
        self, server: GcsServer, store: GcsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login me password secret\n")
        netrc.chmod(0o600)
        monkeypatch.setenv("NETRC", str(netrc))
        seen: list[str | None] = []

        def note(request: Request) -> None:
            seen.append(request.headers.get("authorization"))

        server.before = note
        list(store.list(""))
        assert seen == [None]

    def test_names_know_no_run_but_their_own(self) -> None:
        place = gcs_names.Place("bkt", "run")
        assert place.key(place.name("run/k")) == "run/k"

    def test_many_threads_share_a_store(self, store: GcsStore) -> None:
        barrier = threading.Barrier(8)

        def work(number: int) -> bytes:
            barrier.wait()
            store.put(f"k{number}", b"%d" % number)
            return store.read(f"k{number}")

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [b"%d" % number for number in range(8)]
