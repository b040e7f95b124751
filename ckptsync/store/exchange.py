"""One request and its answer over a connection that is open already.

urllib3 and the standard library take a third of a millisecond for each, most of it in a parser of e-mail that reads the answer's
head. Connections are theirs all the same: they open, verify and keep them, and what goes over a new one goes their way.
"""

from __future__ import annotations

import http.client
import re
from collections.abc import Mapping
from typing import Any

from urllib3.exceptions import InvalidHeader, PoolError

from ckptsync.store.base import Buffer

# Source: https://www.rfc-editor.org/rfc/rfc9112 sections 4 and 5
_PLAIN_HEAD = re.compile(r"HTTP/1\.1 (?!204|304)([2-9][0-9]{2})[^\r\n]*\r\n((?:[!-9;-~]+:[^\r\n]*\r\n)+)\r\n")


class Answer(http.client.HTTPResponse):
    """An answer, and the connection it comes over until it is read.

    Attributes:
        headers: by name in lower case.
        lender: the pool, and its connection, which goes back when the body is read.
    """

    headers: Any
    msg: Any

    def __init__(self, sock: Any, method: str) -> None:
        """Begin behind a request that was sent."""
        super().__init__(sock, method=method)
        self.lender: tuple[Any, Any] | None = None

    def begin(self) -> None:
        """Read the head: at once where all of it has come and nothing is special, else as the standard library does."""
        if not self._begin_plainly():
            super().begin()
            self.headers = {name.lower(): value for name, value in self.headers.items()}

    def _begin_plainly(self) -> bool:
        """Take in a head that tells how long the body is; False when nothing was taken."""
        found = _PLAIN_HEAD.match(self.fp.peek().decode("iso-8859-1"))
        if found is None:
            return False
        lines = found[2].split("\r\n")[:-1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = headers.get("content-length", "")
        if len(headers) < len(lines) or "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
            return False
        self.fp.read(found.end())
        self.version, self.code, self.headers, self.msg = 11, int(found[1]), headers, headers
        self.status, self.reason, self.chunked, self.chunk_left = self.code, "", False, None
        self.length = int(length)
        self.will_close = "close" in headers.get("connection", "").lower()
        return True

    def release_conn(self) -> None:
        """Give the connection back, now that the answer is read. Safe to call again."""
        lender, self.lender = self.lender, None
        if lender is not None:
            pool, connection = lender
            if self.will_close or not self.isclosed():
                super().close()
                connection.close()
            pool._put_conn(connection)  # noqa: SLF001  as urllib3 does it itself

    def close(self) -> None:
        """Close the connection unless it was given back. Safe to call again."""
        self.will_close = True
        super().close()
        self.release_conn()


def exchange(pool: Any, method: str, target: str, headers: Mapping[str, str], body: Buffer) -> Answer | None:
    """Send a request over an idle connection.

    Args:
        pool: urllib3's, of connections that are paced.
        method: as in `GET`.
        target: path and query.
        headers: all that are sent but `Accept-Encoding`.
        body: all of it.

    Returns:
        The answer, its head read; None when no connection is idle, and nothing was sent.

    Raises:
        OSError: the connection broke, or was too slow.
        HTTPException: what came is no answer.
        InvalidHeader: a header cannot be sent.
    """
    sent = _head(method, target, headers)
    try:
        connection = pool._get_conn()  # noqa: SLF001  checks that the service has not closed it
    except PoolError:
        return None
    if connection.sock is None:
        pool._put_conn(None)  # noqa: SLF001  not this one: it may have been made before the pool was told what to trust
        return None
    answer, refused = None, False
    try:
        try:
            connection.sock.sendall(b"".join((sent, body)))
        except (BrokenPipeError, ConnectionResetError):
            refused = True  # by a service that may have said why
        answer = Answer(connection.sock, method)
        answer.begin()
    except BaseException:
        connection.close()
        if answer is not None:
            answer.close()  # until then the socket is open
        pool._put_conn(connection)  # noqa: SLF001  as it came
        raise
    connection.sock.head_is_over()
    answer.will_close |= refused
    answer.lender = pool, connection
    return answer


def _head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """Write the head of a request."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if lines.count("\n") + lines.count("\r") > 2 * len(headers):
        raise InvalidHeader("a header holds a line break")
    try:
        return f"{method} {target} HTTP/1.1\r\nAccept-Encoding: identity\r\n{lines}\r\n".encode("iso-8859-1")
    except UnicodeEncodeError as error:
        raise InvalidHeader("a header holds letters that none may hold") from error
