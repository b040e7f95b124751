"""Whatever is typed: a size, a duration, a name, or refused in our own words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckptsync.catalog import Catalog
from ckptsync.config import parse_duration, parse_size, resolve
from ckptsync.errors import ConfigError, NoSnapshotError
from ckptsync.names import find
from ckptsync.store.memory import MemoryStore

_WORDS = st.text(st.sampled_from("0123456789.,kMGTiBsmhdw -+e٣²latestbes:min/"), max_size=12) | st.text(max_size=8)


@given(_WORDS)
def test_sizes_and_durations(text: str) -> None:
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ConfigError:
            continue


@given(st.integers(0, 10**15), st.sampled_from(["", "K", "M", "G", "T"]), st.sampled_from(["", "i"]))
def test_whole_sizes_are_exact(number: int, unit: str, binary: str) -> None:
    factor = (1024 if binary and unit else 1000) ** " KMGT".index(unit or " ")
    assert parse_size(f"{number}{unit}{binary if unit else ''}B") == number * factor


@given(_WORDS)
def test_names(text: str) -> None:
    try:
        find(Catalog(MemoryStore()), text)
    except (ConfigError, NoSnapshotError):
        return
    assert len(text) == 30


@given(st.dictionaries(st.sampled_from(["TRANSFER_WORKERS", "RETRY_BASE_S", "SINGLE_WRITER", "S3_CHECKSUM"]), _WORDS))
def test_environments(values: dict[str, str]) -> None:
    try:
        found = resolve(environ={f"CKPTSYNC_{name}": value for name, value in values.items()})
    except ConfigError:
        return
    assert 1 <= found.transfer.parts_in_flight <= 256
    assert found.retry.base_s > 0
