"""One request and its answer on their way through, and the one place where faults are applied."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckptsync.testing.proxy.asked import Asked
from ckptsync.testing.proxy.faults import (
    MAX_RECORDED_BYTES,
    Change,
    Duplicate,
    EndedError,
    Ending,
    Fault,
    Pieces,
    Wait,
    flip,
)
from ckptsync.testing.proxy.wire import Body, Head, Peer, answer_body, request_body

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_FINAL = 200


@dataclass(slots=True, kw_only=True)
class Entry:
    """A request, as the proxy's log has it.

    Attributes:
        number: 1 for the proxy's first.
        method: of HTTP.
        target: path and query, percent-decoded.
        at_s: when its head had come, by the proxy's monotonic clock.
        changes: `bucket/name` of the object it creates, replaces or deletes, finishing an upload included; else empty.
        faults: names of what struck it.
        status: of the answer the client is given; 0 while there is none.
        sent: bytes of its body that went on to the upstream.
        received: bytes of the answer's body that went on to the client. Both may run ahead of what arrived by one piece.
    """

    number: int
    method: str
    target: str
    at_s: float
    changes: str = ""
    faults: tuple[str, ...] = ()
    status: int = 0
    sent: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request that will arrive again."""

    head: Head
    body: bytes
    when: Duplicate

    def again(self) -> bytes:
        """Its bytes, the second time."""
        body = self.body if self.when.flip is None else flip(self.body, self.when.flip)
        return self.head.without("expect", "transfer-encoding").encode() + body


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request on its way.

    Attributes:
        asked: the request.
        faults: what strikes it.
        client: where it came from.
        connect: opens or reuses the way to the upstream.
        wait: lets time pass, and ends early when the proxy stops.
        remember: keeps a request that shall arrive again.
        entry: to be filled in.
    """

    asked: Asked
    faults: Sequence[Fault]
    client: Peer
    connect: Callable[[], Peer]
    wait: Wait
    remember: Callable[[Recorded], None]
    entry: Entry

    def run(self) -> bool:
        """Pass the request on, and its answer back, as far as the faults let them.

        Returns:
            Whether the client's connection can take another request.

        Raises:
            EndedError: a fault ends the client's connection.
            BrokenOffError: one of the two hung up by itself.
        """
        for fault in self.faults:
            self.wait(fault.delay_s)
        in_place = next((fault for fault in self.faults if fault.answer or fault.ending), None)
        if in_place is not None and not in_place.forward:
            return self._answer_alone(in_place)
        head = self.asked.head
        for fault in self.faults:
            head = fault.rewrite(head) if fault.rewrite else head
        upstream = self.connect()
        body = request_body(self.client, head)
        answer = self._ask(upstream, head, body)
        unread = bool(body.left)
        if in_place is not None:
            for _ in answer_body(upstream, answer, head.method).pieces():
                pass
            return self._give(in_place, closes=unread)
        return self._pass_back(upstream, answer) and not unread and not head.closes

    # -- the request -------------------------------------------------------------------------------------------------

    def _answer_alone(self, fault: Fault) -> bool:
        """Answer, or end, without asking the upstream."""
        body = request_body(self.client, self.asked.head)
        if fault.drain:
            if self.asked.head.get("expect"):
                self.client.send(_CONTINUE)
            for _ in body.pieces():
                pass
        unread = bool(body.left) or (body.chunked and not fault.drain)
        return self._give(fault, closes=unread)

    def _give(self, fault: Fault, *, closes: bool) -> bool:
        """Give the client what a fault has in place of the upstream's answer."""
        if fault.answer is None:
            raise EndedError(fault.ending or "close")
        closes = closes or self.asked.head.closes
        head, content = fault.answer.encode(self.asked, closes=closes)
        self.entry.status, self.entry.received = head.status, len(content)
        self.client.send(head.encode() + content)
        return not closes

    def _ask(self, upstream: Peer, head: Head, body: Body) -> Head:
        """Send a request and return the head of its answer, which may come before the request's end."""
        upstream.send(head.encode())
        if head.get("expect") and (early := self._await_leave(upstream)):
            return early
        record = [fault.again for fault in self.faults if fault.again is not None]
        kept: list[bytes] = []
        for piece in self._changed(body.pieces(), [fault.up for fault in self.faults]):
            self.entry.sent += len(piece)
            upstream.send(body.framed(piece))
            if record and self.entry.sent <= MAX_RECORDED_BYTES:
                kept.append(piece)
            if body.left and upstream.has_more:
                return self._final_head(upstream)
        upstream.send(body.ending())
        answer = self._final_head(upstream)
        if self.entry.sent <= MAX_RECORDED_BYTES and not body.chunked:
            for when in record:
                self.remember(Recorded(head, b"".join(kept), when))
        return answer

    def _await_leave(self, upstream: Peer) -> Head | None:
        """Wait until the upstream wants the body, or the client sends it unasked; the answer when it does not want it."""
        while not self.client.has_more:
            if upstream.socket in select.select([self.client.socket, upstream.socket], [], [])[0]:
                head = upstream.read_head()
                if head.status >= _FINAL:
                    return head
                self.client.send(head.encode())
                return None
        return None

    def _final_head(self, upstream: Peer) -> Head:
        """Return the head of the answer, behind any that only say that it is coming."""
        while (head := upstream.read_head()).status < _FINAL:
            self.client.send(head.encode())
        return head

    # -- the answer --------------------------------------------------------------------------------------------------

    def _pass_back(self, upstream: Peer, head: Head) -> bool:
        """Give the client the upstream's answer; False when a connection ends with it."""
        body = answer_body(upstream, head, self.asked.head.method)
        self.entry.status = head.status
        self.client.send(head.encode())
        for piece in self._changed(body.pieces(), [fault.down for fault in self.faults]):
            self.entry.received += len(piece)
            self.client.send(body.framed(piece))
        self.client.send(body.ending())
        return not head.closes and not body.until_close

    def _changed(self, pieces: Pieces, changes: Sequence[Change | None]) -> Pieces:
        """Lay the changes over a body, one upon the other."""
        for change in changes:
            pieces = change(pieces, self.wait) if change is not None else pieces
        return pieces


def end(client: Peer, how: Ending) -> None:
    """End a client's connection in the manner a fault asks for."""
    if how == "silence":
        client.wait_gone()
    client.hang_up(reset=how == "reset")


def send_again(upstream: Peer, recorded: Recorded) -> None:
    """Let a request arrive once more; its answer is awaited and forgotten.

    Raises:
        BrokenOffError: the upstream hung up instead.
    """
    upstream.send(recorded.again())
    while (answer := upstream.read_head()).status < _FINAL:
        pass
    for _ in answer_body(upstream, answer, recorded.head.method).pieces():
        pass
