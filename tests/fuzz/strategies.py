"""Bytes that were good once: seeds with a few things done to them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

_TOKENS = (
    *(
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b",",
        b":",
        b"\\u0000",
        b"\\ud800",
        b"null",
        b"true",
        b"-1",
        b"0",
        b"1e400",
        b"-0.0",
        b"NaN",
    ),
    *(
        b"9" * 25,
        b"9" * 5000,
        b"[" * 3000,
        b'{"a":' * 3000,
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\r\n",
        b"\n",
        b"=",
        b"@",
        b"/",
    ),
    *(
        b"..",
        b"//",
        b"://",
        b"%2e%2e",
        b"?",
        b"#",
        b"&lt;",
        b"<a>",
        b"</a>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>&b;",
        b"[::1",
    ),
    *(
        b"9999-12-31T23:59:59Z",
        b"0001-01-01T00:00:00+23:59",
        "٣".encode(),
        "ä".encode(),
        "\U0001f600".encode(),
        b"e308",
    ),
)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds after up to four changes, or any bytes."""
    data = draw(st.one_of(st.sampled_from(list(seeds)), st.sampled_from(list(seeds)), st.binary(max_size=80)))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 24)))
        piece = draw(st.one_of(st.sampled_from(_TOKENS), st.binary(max_size=8), st.just(data[start:end] * 2)))
        data = data[:start] + piece + data[end:]
    return data
