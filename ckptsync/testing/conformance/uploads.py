"""The multipart half of the conformance suite; use `ckptsync.testing.conformance.StoreConformance`, which has it all."""

# ruff: noqa: S101, D102  a suite is made of asserts, and a test's name is its documentation

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import pytest

from ckptsync.errors import CkptsyncError, IntegrityError, NotFoundError, UnsupportedError
from ckptsync.store.base import PartTag, Store, Upload

ODD_KEYS = (
    "with space/ and  more .bin",
    "plus+and=and&and,and;and@and:and$",
    "percent%2Fslash%20%",
    "question?mark#hash",
    "quote'\"`",
    "brackets[0]{1}(2)<3>",
    "star*bar|tilde~caret^bang!",
    "dots.../..a/b../trailing.dots...",
    ".hidden/.file",
    "-dash/--double",
    "UPPER/lower",
    "ünïcödé/ключ/键/🙂",
    "combining/e\u0301",
    "/".join(f"{number:099d}" for number in range(9)) + "x",
    "/".join("deep" for _ in range(60)),
)
"""Keys of 1 to 900 bytes whose segments fit into 255; slashes are never doubled nor at the ends."""


class UploadConformance:
    """What `begin` to `uploads` must do.

    Attributes:
        many_parts: parts put to see a listing of several pages; 0 leaves that test out.
    """

    many_parts: int = 1005

    @pytest.fixture
    def make_store(self) -> Callable[[], Store]:
        """Override this: return what opens a client, each time another, on one place that was empty before the test."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, make_store: Callable[[], Store]) -> Iterator[Store]:
        """Open the client most tests use."""
        with make_store() as store:
            yield store

    def test_without_uploads_says_so(self, store: Store) -> None:
        need(not store.traits.multipart, "the store has multipart uploads")
        upload = Upload(key="key", id="id")
        for ask in (
            lambda: store.begin("key"),
            lambda: store.put_part(upload, 1, b""),
            lambda: store.parts(upload),
            lambda: store.finish(upload, []),
            lambda: store.abort(upload),
            lambda: list(store.uploads("")),
        ):
            with pytest.raises(UnsupportedError):
                ask()

    def test_parts_in_any_order_make_one_object(self, store: Store) -> None:
        pieces = cut(store, 3)
        upload = store.begin("folder/object")
        tags = {number: store.put_part(upload, number, pieces[number - 1]) for number in (3, 1, 2)}
        made = store.finish(upload, [tags[1], tags[2], tags[3]])
        whole = b"".join(pieces)
        assert (made.key, made.size) == ("folder/object", len(whole))
        assert made.tag == store.stat("folder/object").tag
        assert fetch(store, "folder/object", len(whole)) == whole
        if made.hashes:
            assert not store.vouches(made.hashes, [*pieces[:2], b"other"])

    def test_part_tells_number_size_and_true_hashes(self, store: Store) -> None:
        piece = cut(store, 1)[0]
        upload = store.begin("object")
        sent = store.put_part(upload, 1, piece)
        held = store.parts(upload)[1]
        assert (sent.number, sent.size) == (held.number, held.size) == (1, len(piece))
        assert sent.tag == held.tag
        for part in (sent, held):
            if "md5" in part.hashes:
                assert part.hashes["md5"] == hashlib.md5(piece, usedforsecurity=False).hexdigest()

    def test_nothing_is_visible_before_finish(self, store: Store) -> None:
        pieces = cut(store, 2)
        upload = store.begin("object")
        sent = [store.put_part(upload, number, piece) for number, piece in enumerate(pieces, 1)]
        assert list(store.list("")) == []
        with pytest.raises(NotFoundError):
            store.stat("object")
        store.finish(upload, sent)
        assert [found.key for found in store.list("")] == ["object"]

    def test_an_object_stays_until_finish_replaces_it(self, store: Store) -> None:
        need_uploads(store)
        store.put("object", b"old")
        upload = store.begin("object")
        sent = store.put_part(upload, 1, b"new content")
        assert store.read("object") == b"old"
        store.finish(upload, [sent])
        assert store.read("object") == b"new content"

    def test_put_part_keeps_no_view_of_its_data(self, store: Store) -> None:
        need_uploads(store)
        buffer = bytearray(content(1000))
        upload = store.begin("object")
        sent = store.put_part(upload, 1, memoryview(buffer)[100:])
        buffer[:] = bytes(1000)
        buffer.extend(b"resizable, so nobody holds a view")
        store.finish(upload, [sent])
        assert store.read("object") == content(1000)[100:]

    def test_part_sent_again_replaces_the_first(self, store: Store) -> None:
        pieces = cut(store, 3)
        upload = store.begin("object")
        old = store.put_part(upload, 1, pieces[0])
        last = store.put_part(upload, 2, pieces[1])
        new = store.put_part(upload, 1, pieces[2] + pieces[0])
        assert new.tag != old.tag
        assert {number: part.tag for number, part in store.parts(upload).items()} == {1: new.tag, 2: last.tag}
        store.finish(upload, [new, last])
        whole = pieces[2] + pieces[0] + pieces[1]
        assert fetch(store, "object", len(whole)) == whole

    def test_finish_refuses_a_part_that_was_sent_again(self, store: Store) -> None:
        pieces = cut(store, 2)
        upload = store.begin("object")
        old = store.put_part(upload, 1, pieces[0])
        store.put_part(upload, 1, pieces[1])
        with pytest.raises(IntegrityError):
            store.finish(upload, [old])
        assert list(store.list("")) == []

    def test_finish_refuses_a_part_never_sent(self, store: Store) -> None:
        pieces = cut(store, 1)
        upload = store.begin("object")
        sent = store.put_part(upload, 1, pieces[0])
        never = PartTag(number=2, size=sent.size, tag=sent.tag)
        with pytest.raises(IntegrityError):
            store.finish(upload, [sent, never])
        assert list(store.list("")) == []

    def test_finish_leaves_out_parts_it_is_not_given(self, store: Store) -> None:
        pieces = cut(store, 3)
        upload = store.begin("object")
        sent = [store.put_part(upload, number, piece) for number, piece in enumerate(pieces, 1)]
        assert store.finish(upload, sent[:2]).size == len(pieces[0]) + len(pieces[1])
        assert fetch(store, "object", 2 * len(pieces[0])) == pieces[0] + pieces[1]

    def test_finish_may_be_called_again(self, store: Store) -> None:
        pieces = cut(store, 2)
        upload = store.begin("object")
        sent = [store.put_part(upload, number, piece) for number, piece in enumerate(pieces, 1)]
        first = store.finish(upload, iter(sent))
        again = store.finish(upload, iter(sent))
        assert (again.key, again.size, again.tag) == (first.key, first.size, first.tag)
        assert fetch(store, "object", again.size) == b"".join(pieces)

    def test_finish_of_a_dropped_upload_is_not_settled_by_another_object(self, store: Store) -> None:
        piece = cut(store, 1)[0]
        store.put("object", bytes(len(piece)))
        upload = store.begin("object")
        sent = store.put_part(upload, 1, piece)
        store.abort(upload)
        with pytest.raises(NotFoundError):
            store.finish(upload, [sent])
        assert fetch(store, "object", len(piece)) == bytes(len(piece))

    def test_what_another_finished_with_other_parts_is_not_taken_for_ours(self, store: Store) -> None:
        ours, others = cut(store, 2)
        upload = store.begin("object")
        sent = store.put_part(upload, 1, ours)
        late = store.put_part(upload, 1, others[: len(ours)].ljust(len(ours), b"."))
        store.finish(upload, [late])
        with pytest.raises((NotFoundError, IntegrityError)):
            store.finish(upload, [sent])
        assert fetch(store, "object", len(ours)) != ours

    def test_what_is_gone_after_abort(self, store: Store) -> None:
        piece = cut(store, 1)[0]
        upload = store.begin("object")
        sent = store.put_part(upload, 1, piece)
        for _ in range(2):
            store.abort(upload)
        assert list(store.uploads("")) == []
        with pytest.raises(NotFoundError):
            store.parts(upload)
        with pytest.raises(NotFoundError):
            store.put_part(upload, 2, piece)
        with pytest.raises(NotFoundError):
            store.finish(upload, [sent])
        assert list(store.list("")) == []

    def test_what_is_gone_after_finish(self, store: Store) -> None:
        piece = cut(store, 1)[0]
        upload = store.begin("object")
        store.finish(upload, [store.put_part(upload, 1, piece)])
        assert list(store.uploads("")) == []
        with pytest.raises(NotFoundError):
            store.parts(upload)
        with pytest.raises(NotFoundError):
            store.put_part(upload, 1, piece)
        store.abort(upload)
        assert fetch(store, "object", len(piece)) == piece

    def test_another_client_goes_on_with_an_upload(self, store: Store, make_store: Callable[[], Store]) -> None:
        pieces = cut(store, 3)
        begun = store.begin("run/object")
        sent = [store.put_part(begun, 1, pieces[0]), store.put_part(begun, 3, pieces[2])]
        with make_store() as other:
            (found,) = other.uploads("run/")
            assert (found.key, found.id) == (begun.key, begun.id)
            held = other.parts(found)
            assert {number: (part.size, part.tag) for number, part in held.items()} == {
                part.number: (part.size, part.tag) for part in sent
            }
            held[2] = other.put_part(found, 2, pieces[1])
            other.finish(found, [held[1], held[2], held[3]])
        whole = b"".join(pieces)
        assert fetch(store, "run/object", len(whole)) == whole

    def test_uploads_are_listed_by_prefix(self, store: Store) -> None:
        need_uploads(store)
        begun = [store.begin(key) for key in ("run-1/a", "run-1/a", "run-1/b c+%2F", "run-10/a")]
        assert len({upload.id for upload in begun}) == len(begun)
        for prefix, expected in (("run-1/", begun[:3]), ("run-10/", begun[3:]), ("", begun), ("run-2", [])):
            found = {(upload.key, upload.id) for upload in store.uploads(prefix)}
            assert found == {(upload.key, upload.id) for upload in expected}
        for upload in begun:
            assert store.parts(upload) == {}
            store.abort(upload)

    def test_part_numbers_are_bounded(self, store: Store) -> None:
        need_uploads(store)
        upload = store.begin("object")
        for number in (0, -1, store.traits.max_parts + 1):
            with pytest.raises(CkptsyncError):
                store.put_part(upload, number, b"data")
        store.abort(upload)

    def test_unknown_upload(self, store: Store) -> None:
        need_uploads(store)
        begun = store.begin("object")
        store.abort(begun)
        for upload in (begun, Upload(key="other", id=begun.id)):
            with pytest.raises(NotFoundError):
                store.parts(upload)

    def test_more_parts_than_a_page(self, store: Store) -> None:
        need_uploads(store)
        need(self.many_parts > 0, "left out for this store")
        upload = store.begin("object")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: store.put_part(upload, number, b"x"), range(1, self.many_parts + 1)))
        assert list(store.parts(upload)) == list(range(1, self.many_parts + 1))
        store.abort(upload)

    def test_parts_from_many_threads(self, store: Store) -> None:
        pieces = cut(store, 8)
        upload = store.begin("object")
        with ThreadPoolExecutor(8) as threads:
            sent = list(threads.map(lambda number: store.put_part(upload, number, pieces[number - 1]), range(1, 9)))
        store.finish(upload, sent)
        whole = b"".join(pieces)
        assert fetch(store, "object", len(whole)) == whole


@lru_cache(maxsize=64)
def content(size: int, seed: int = 0) -> bytes:
    """Return so many bytes that look random, the same ones for the same arguments."""
    return random.Random(f"{seed}").randbytes(size)  # noqa: S311  content, not a secret


def need(met: bool, reason: str) -> None:  # noqa: FBT001  reads best at the call
    """Skip a test whose condition is not met."""
    if not met:
        pytest.skip(reason)


def need_uploads(store: Store) -> None:
    """Skip where there are no multipart uploads."""
    need(store.traits.multipart, "the store has no multipart uploads")


def part_bytes(store: Store) -> int:
    """Return a part size every position may have."""
    return max(1000, store.traits.min_part_bytes)


def cut(store: Store, count: int) -> list[bytes]:
    """Return parts that differ, the last one short; skips where there are no multipart uploads."""
    need_uploads(store)
    size = part_bytes(store)
    return [content(size, number) for number in range(count - 1)] + [content(size // 3, count)]


def fetch(store: Store, key: str, size: int) -> bytes:
    """Get an object through `get`, with room for one byte too many."""
    buffer = bytearray(size + 1)
    count = store.get(key, memoryview(buffer))
    return bytes(buffer[:count])


def keys_of(store: Store, prefix: str) -> list[str]:
    """List keys."""
    return [found.key for found in store.list(prefix)]
