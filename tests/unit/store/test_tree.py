from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from ckptsync.store import tree

SEGMENTS = st.sampled_from(["a", "b", "a-", "a.b", "a0", "é", "🙂", "\uffee"])
TREES = st.sets(st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), max_size=12)


def scan_of(keys: set[str]) -> Callable[[str], Iterator[tuple[tree.Entry, str]]]:
    """Scan folders that exist only by name."""

    def scan(folder: str) -> Iterator[tuple[tree.Entry, str]]:
        below = {key[len(folder) :] for key in keys if key.startswith(folder)}
        files = {name for name in below if name and "/" not in name}
        folders = {name.partition("/")[0] for name in below if "/" in name}
        yield from ((tree.Entry(name, is_folder=False), name) for name in files)
        yield from ((tree.Entry(name, is_folder=True), name) for name in folders - files)

    return scan


@given(TREES, st.text(st.sampled_from("ab-./é"), max_size=4), st.data())
def test_walk_is_a_sorted_filter_of_all_keys(keys: set[str], prefix: str, data: st.DataObject) -> None:
    # a name is a file or a folder, never both
    keys = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    near = st.sampled_from(sorted(keys) or [""]).flatmap(lambda key: st.sampled_from([key, key[:-1], f"{key}0"]))
    after = data.draw(near | st.text(st.sampled_from("ab-./é🙂"), max_size=4))
    expected = sorted((key for key in keys if key.startswith(prefix) and key > after), key=str.encode)
    assert [key for key, _ in tree.walk(scan_of(keys), prefix, after)] == expected


def test_walk_goes_deeper_than_python_may_recurse() -> None:
    key = "a/" * 5000 + "b"
    assert [found for found, _ in tree.walk(scan_of({key}), "")] == [key]
