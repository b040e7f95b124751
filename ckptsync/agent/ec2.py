"""Notices of Amazon EC2: spot interruptions, and the advice that one is likely.

IMDSv2 alone: where its token cannot be had, nothing is asked without one.
Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html,
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/rebalance-recommendations.html
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime
from threading import Event as Flag

from ckptsync.agent.metadata import TRIES, Answer, Service
from ckptsync.agent.notice import Notice, Source, Tell
from ckptsync.clock import SYSTEM, Clock

POLL_S = 0.5  # the service is on the machine: asking costs a millisecond, and a notice is decided about within a second
_ADVICE_S = 5.0
WARNING_S = 120.0
_TOKEN_TTL_S = 21_600
_RENEW_S = _TOKEN_TTL_S / 2
_ACTION = "/latest/meta-data/spot/instance-action"
_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
_OK, _UNAUTHORIZED = 200, 401
_log = logging.getLogger("ckptsync")


def service(environ: Mapping[str, str]) -> Service | None:
    """Where the service is, as the SDKs have it; None, and a line in the log, where AWS_EC2_METADATA_DISABLED forbids to ask.

    Raises:
        ConfigError: AWS_EC2_METADATA_SERVICE_ENDPOINT is no address.
    """
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        _log.info("not watching EC2's notices: AWS_EC2_METADATA_DISABLED forbids to ask")
        return None
    if given := environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        return Service.at(given)
    over_six = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower() == "ipv6"
    return Service("fd00:ec2::254" if over_six else "169.254.169.254", 80)


class Ec2Watcher:
    """Asks twice a second whether the instance is interrupted, and every few seconds whether that is likely."""

    name = "ec2"

    def __init__(self, service: Service, *, clock: Clock = SYSTEM, poll_s: float = POLL_S) -> None:
        """Take the service's address. Nothing is asked yet."""
        self._service, self._clock, self._poll_s = service, clock, poll_s
        self._token, self._renew_s = "", 0.0
        self._advised_s = -_ADVICE_S
        self._told: set[tuple[str, str]] = set()

    def is_here(self, stop: Flag) -> bool:
        """Whether this is a machine of EC2; says in one line why not. Takes less than 5 seconds."""
        problem = ""
        for _ in range(TRIES):
            if stop.is_set():
                return False
            try:
                self._renew()
            except OSError as error:
                problem = str(error) or type(error).__name__
            else:
                return True
        hint = ""
        if self._answers():
            hint = "; a service answers there but gives no token, as where the hop limit is 1 and this is a container: set it to 2"
        _log.info("not watching EC2's notices: %s does not answer (%s)%s", self._service.host, problem, hint)
        return False

    def watch(self, tell: Tell, stop: Flag) -> None:
        """As `Watcher` asks for it."""
        if not self.is_here(stop):
            return
        while not stop.wait(self._poll_s):
            self._look(tell)

    def _look(self, tell: Tell) -> None:
        """Ask what is due; what fails is asked again at the next look."""
        now_s = self._clock.monotonic()
        due = [(_ACTION, self._interruption)]
        if now_s - self._advised_s >= _ADVICE_S:
            self._advised_s = now_s
            due.append((_REBALANCE, self._advice))
        try:
            if now_s >= self._renew_s:
                self._renew()
            for path, read in due:
                answer = self._asked(path)
                if answer.status == _OK and (path, answer.text) not in self._told:
                    self._told.add((path, answer.text))
                    tell(read(answer.text))
        except OSError as error:
            _log.debug("EC2's metadata service: %s", error)

    def _asked(self, path: str) -> Answer:
        """Ask with a token, and once more with a new one where it is no longer taken."""
        answer = self._service.ask(path, fields={"X-aws-ec2-metadata-token": self._token})
        if answer.status == _UNAUTHORIZED:
            self._renew()
            answer = self._service.ask(path, fields={"X-aws-ec2-metadata-token": self._token})
        return answer

    def _renew(self) -> None:
        """Fetch a token.

        Raises:
            OSError: none can be had.
        """
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
        answer = self._service.ask("/latest/api/token", method="PUT", fields=lifetime)
        token = answer.text.strip()
        if answer.status != _OK or not token.isascii() or not token.isprintable() or not token:
            raise OSError(f"no token, but status {answer.status}")
        self._token, self._renew_s = token, self._clock.monotonic() + _RENEW_S

    def _answers(self) -> bool:
        """Whether a service is there that refuses a wrong token. Without one it would be asked by IMDSv1."""
        try:
            return self._service.ask(_ACTION, fields={"X-aws-ec2-metadata-token": "none"}).status == _UNAUTHORIZED
        except OSError:
            return False

    def _interruption(self, text: str) -> Notice:
        """The notice that an interruption is; it counts even where its words are new."""
        found = _fields(text)
        kind = str(found.get("action") or "terminate")
        at_s = _moment(found.get("time"))
        left_s = WARNING_S if at_s is None else at_s - self._clock.now()
        return Notice(
            source=Source.EC2,
            kind=kind,
            final=True,
            deadline_s=self._clock.monotonic() + left_s,
            message=f"EC2 will {kind} this spot instance in {max(0.0, left_s):.0f} s",
        )

    def _advice(self, text: str) -> Notice:
        """The notice that a recommendation to rebalance is."""
        since = f" since {told}" if (told := _fields(text).get("noticeTime")) else ""
        return Notice(
            source=Source.EC2,
            kind="rebalance",
            final=False,
            deadline_s=None,
            message=f"EC2 tells that an interruption of this spot instance is likely{since}",
        )


def _fields(text: str) -> Mapping[str, object]:
    """What a JSON object says; nothing where it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _moment(text: object) -> float | None:
    """Seconds since 1970; None where it is no time."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
