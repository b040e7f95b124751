"""What goes wrong, as a client and the upstream see it."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable

import pytest
from support.tiny_http import Ask, Upstream

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.proxy import Answer, Fault, Proxy, answers, faults

BODY = bytes(range(256)) * 1000
BROKEN = (ConnectionError, http.client.HTTPException)


@pytest.mark.parametrize(
    ("answer", "status", "code", "reason"),
    [
        (answers.slow_down(), 503, "SlowDown", "backendError"),
        (answers.too_many_requests(), 429, "TooManyRequests", "rateLimitExceeded"),
        (answers.internal_error(), 500, "InternalError", "internalError"),
        (answers.error_in_200(), 200, "InternalError", "internalError"),
        (answers.conditional_request_conflict(), 409, "ConditionalRequestConflict", "aborted"),
        (answers.precondition_failed(), 412, "PreconditionFailed", "conditionNotMet"),
        (answers.expired_token(), 400, "ExpiredToken", "ExpiredToken"),
        (answers.unauthorized(), 401, "AuthenticationRequired", "authError"),
        (answers.denied(), 403, "AccessDenied", "forbidden"),
        (answers.no_such_upload(), 404, "NoSuchUpload", "notFound"),
        (answers.invalid_part(), 400, "InvalidPart", "invalid"),
    ],
)
def test_an_answer_speaks_the_dialect_it_was_asked_in(
    proxy: Proxy, ask: Ask, upstream: Upstream, answer: Answer, status: int, code: str, reason: str
) -> None:
    proxy.inject(faults.answered(answer), times=3)
    xml = ask("PUT", "/b/k", BODY)
    assert (xml.status, f"<Code>{code}</Code>".encode() in xml.body) == (status, True)
    told = ask("POST", "/upload/storage/v1/b/b/o?uploadType=media&name=k", BODY)
    assert (told.status, json.loads(told.body)["error"]["errors"][0]["reason"]) == (status, reason)
    assert ask("HEAD", "/b/k").status == status
    assert upstream.seen == []
    assert ask("PUT", "/b/k", BODY).status == 200
    assert [entry.status for entry in proxy.log] == [status] * 3 + [200]
    assert proxy.log[0].faults == (f"answered {answer.status} {code}",)


def test_a_pause_is_asked_for(proxy: Proxy, ask: Ask) -> None:
    proxy.inject(faults.answered(answers.slow_down(retry_after_s=7)))
    assert ask("GET", "/k").headers["Retry-After"] == "7"


def test_an_answer_before_the_body_ends_the_connection(proxy: Proxy, connection: http.client.HTTPConnection) -> None:
    proxy.inject(faults.answered(answers.slow_down(), drain=False))
    connection.putrequest("PUT", "/k")
    connection.putheader("Content-Length", "1000")
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (503, "close")


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_lost_answer_took_effect(proxy: Proxy, ask: Ask, upstream: Upstream, how: faults.Ending) -> None:
    proxy.inject(faults.lost_answer(how))
    with pytest.raises(ConnectionResetError if how == "reset" else http.client.RemoteDisconnected):
        ask("PUT", "/k", BODY)
    assert upstream.objects == {"/k": BODY}
    assert ask("GET", "/k").body == BODY


def test_a_replaced_answer_took_effect(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    proxy.inject(faults.replaced_answer(answers.internal_error()))
    assert ask("PUT", "/k", BODY).status == 500
    assert upstream.objects == {"/k": BODY}
    assert ask("GET", "/k").body == BODY


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_dropped_request_had_no_effect(proxy: Proxy, ask: Ask, upstream: Upstream, how: faults.Ending) -> None:
    proxy.inject(faults.dropped(how))
    with pytest.raises(BROKEN):
        ask("PUT", "/k", BODY)
    assert upstream.seen == []


def fetch(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/k")
    return connection.getresponse().read()


@pytest.mark.parametrize(
    "fault",
    [faults.silence(), faults.lost_answer("silence"), faults.broken_after(10, how="silence")],
    ids=lambda fault: fault.name,
)
def test_silence_lasts_until_the_client_gives_up(
    proxy: Proxy, connection: http.client.HTTPConnection, upstream: Upstream, fault: Fault
) -> None:
    upstream.objects["/k"] = BODY
    proxy.inject(fault)
    connection.timeout = 0.05
    with pytest.raises(TimeoutError):
        fetch(connection)
    connection.close()
    connection.timeout = 20
    assert fetch(connection) == BODY


@pytest.mark.parametrize("how", ["reset", "close"])
def test_an_answer_breaks_off(proxy: Proxy, ask: Ask, upstream: Upstream, how: faults.Ending) -> None:
    upstream.objects["/k"] = BODY
    proxy.inject(faults.broken_after(100_000, how=how))
    with pytest.raises(ConnectionResetError if how == "reset" else http.client.IncompleteRead) as caught:
        ask("GET", "/k")
    if isinstance(caught.value, http.client.IncompleteRead):
        assert caught.value.partial == BODY[:100_000]
    assert proxy.log[0].received == 100_000
    assert ask("GET", "/k").body == BODY


def test_a_shorter_body_does_not_break_off(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    upstream.objects["/k"] = BODY
    proxy.inject(faults.broken_after(len(BODY)))
    assert ask("GET", "/k").body == BODY


def test_a_request_breaks_off_without_effect(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    proxy.inject(faults.broken_after(100_000, direction="up"))
    with pytest.raises(BROKEN):
        ask("PUT", "/k", BODY)
    assert upstream.objects == {}
    assert proxy.log[0].sent == 100_000


def test_breaking_off_is_counted_over_all_requests(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    upstream.objects["/k"] = BODY
    proxy.inject(faults.broken_every(600_000, how="close"), times=None)
    broken = 0
    for _ in range(9):
        try:
            ask("GET", "/k")
        except http.client.IncompleteRead:
            broken += 1
    assert broken == 3
    ends = [sum(entry.received for entry in list(proxy.log)[:count]) for count in (3, 6, 9)]
    assert ends == [600_000, 1_200_000, 1_800_000]


def test_a_bit_flips_on_the_way(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    proxy.inject(faults.flipped_bit(70_001, direction="up"), method="PUT")
    proxy.inject(faults.flipped_bit(5), method="GET", skip=1)
    ask("PUT", "/k", BODY)
    damaged = BODY[:70_001] + bytes([BODY[70_001] ^ 1]) + BODY[70_002:]
    assert upstream.objects["/k"] == damaged
    assert ask("GET", "/k").body == damaged
    again = ask("GET", "/k").body
    assert [at for at in range(len(again)) if again[at] != damaged[at]] == [5]


def test_a_drip_takes_its_time(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    upstream.objects["/k"] = bytes(500)
    proxy.inject(faults.pace(5000.0))
    begun_s = time.monotonic()
    assert ask("GET", "/k").body == bytes(500)
    assert time.monotonic() - begun_s >= 0.1
    proxy.inject(faults.pace(5000.0, direction="up"))
    ask("PUT", "/k", bytes(500))
    assert time.monotonic() - begun_s >= 0.2


def test_a_request_is_delayed(proxy: Proxy, ask: Ask) -> None:
    proxy.inject(faults.delay(0.1))
    begun_s = time.monotonic()
    ask("GET", "/k")
    assert time.monotonic() - begun_s >= 0.1


def test_a_condition_is_ignored(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    proxy.inject(faults.condition_ignored(), times=None)
    ask("PUT", "/k", b"", If_None_Match="*", x_goog_if_generation_match="0", Keep="1")
    ask("PUT", "/k?a=1&ifGenerationMatch=0&b=%20")
    first, second = upstream.seen
    assert {"If-None-Match", "x-goog-if-generation-match"}.isdisjoint(first.headers)
    assert first.headers["Keep"] == "1"
    assert second.target == "/k?a=1&b=%20"


def test_one_object_changes_once_a_second(proxy: Proxy, ask: Ask, clock: FakeClock) -> None:
    proxy.inject(faults.one_write_per_s(), times=None)
    assert ask("PUT", "/b/k", BODY).status == 200
    assert ask("PUT", "/b/k", BODY).status == 429
    assert ask("PUT", "/b/other", BODY).status == 200
    assert ask("PUT", "/b/k?partNumber=1&uploadId=u", BODY).status == 200
    assert ask("GET", "/b/k").status == 200
    clock.advance(0.6)
    assert ask("DELETE", "/b/k").status == 429  # a refused change does not count
    clock.advance(0.5)
    assert ask("DELETE", "/b/k").status == 204
    assert [entry.status for entry in proxy.entries() if entry.faults] == [429, 429]


@pytest.mark.parametrize("flip", [None, 3])
def test_a_request_arrives_again_later(proxy: Proxy, ask: Ask, upstream: Upstream, flip: int | None) -> None:
    proxy.inject(faults.late_duplicate("PUT .*partNumber=", flip=flip), target="partNumber=1")
    ask("PUT", "/k?partNumber=1", b"first, sent once")
    ask("GET", "/k")
    ask("PUT", "/k?partNumber=2", b"second")
    ask("PUT", "/k?partNumber=3", b"third")
    late = b"first, sent once" if flip is None else b"firru, sent once".replace(b"u", b"t", 1)
    assert [(seen.target, seen.body) for seen in upstream.seen if seen.method == "PUT"] == [
        ("/k?partNumber=1", b"first, sent once"),
        ("/k?partNumber=1", late),
        ("/k?partNumber=2", b"second"),
        ("/k?partNumber=3", b"third"),
    ]


def test_several_faults_strike_one_request(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    upstream.objects["/k"] = BODY
    proxy.inject(faults.flipped_bit(0))
    proxy.inject(faults.broken_after(1000, how="close"))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask("GET", "/k")
    assert caught.value.partial == bytes([BODY[0] ^ 1]) + BODY[1:1000]
    assert len(proxy.log[0].faults) == 2


# -- rules ---------------------------------------------------------------------------------------------------------------


def statuses(ask: Ask, count: int, make: Callable[[], tuple[str, str]] = lambda: ("GET", "/k")) -> list[int]:
    return [ask(*make()).status for _ in range(count)]


def test_a_rule_skips_and_counts(proxy: Proxy, ask: Ask) -> None:
    rule = proxy.inject(faults.answered(answers.slow_down()), skip=1, times=2)
    assert statuses(ask, 5) == [404, 503, 503, 404, 404]
    assert (rule.seen, rule.struck) == (5, 2)
    proxy.heal()
    assert proxy.entries() == []


def test_a_rule_looks_at_method_target_and_header(proxy: Proxy, ask: Ask) -> None:
    fault = faults.answered(answers.slow_down())
    proxy.inject(fault, method="PUT", target=r"partNumber=\d", header="X-Try: ^2$", times=None)
    proxy.inject(fault, header="X-Any", times=None)
    assert ask("PUT", "/k?partNumber=1", X_Try="2").status == 503
    assert ask("PUT", "/k?part%4Eumber=1", X_Try="2").status == 503
    assert ask("PUT", "/k?partNumber=1", X_Try="22").status == 200
    assert ask("PUT", "/k?partNumber=1").status == 200
    assert ask("PUT", "/k", X_Try="2").status == 200
    assert ask("GET", "/k?partNumber=1", X_Try="2").status == 200
    assert ask("GET", "/k", X_Any="x").status == 503


def test_a_rule_looks_at_the_object_a_request_changes(proxy: Proxy, ask: Ask) -> None:
    proxy.inject(faults.answered(answers.slow_down()), changes="^b/manifests/", times=None)
    assert ask("PUT", "/b/manifests/1").status == 503
    assert ask("POST", "/upload/storage/v1/b/b/o?uploadType=multipart", b'{"name": "manifests/1"}').status == 503
    assert ask("GET", "/b/manifests/1").status == 404
    assert ask("PUT", "/b/manifests/1?partNumber=1&uploadId=u").status == 200
    assert ask("PUT", "/b/data/manifests/1").status == 200


def test_a_rule_holds_for_a_while(proxy: Proxy, ask: Ask, clock: FakeClock) -> None:
    proxy.inject(faults.answered(answers.slow_down()), for_s=60)
    assert statuses(ask, 3) == [503, 503, 503]
    clock.advance(59)
    assert statuses(ask, 1) == [503]
    clock.advance(1)
    assert statuses(ask, 2) == [404, 404]


def test_chance_is_the_same_for_the_same_seed(upstream: Upstream) -> None:
    def run(seed: int) -> list[int]:
        with Proxy(upstream.url, seed=seed) as proxy:
            proxy.inject(faults.answered(answers.slow_down()), times=None, chance=0.3)
            client = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)
            found = []
            for _ in range(50):
                client.request("GET", "/k")
                answer = client.getresponse()
                answer.read()
                found.append(answer.status)
            client.close()
            return found

    dice = random.Random(5)
    expected = [503 if dice.random() < 0.3 else 404 for _ in range(50)]
    assert run(5) == run(5) == expected
    assert run(6) != expected
