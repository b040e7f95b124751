"""Notices of Google Compute Engine: preemption and host maintenance, by long polls that answer at once when something changes.

Source: https://cloud.google.com/compute/docs/metadata/querying-metadata (wait_for_change, last_etag, timeout_sec),
https://cloud.google.com/compute/docs/instances/spot (30 s until the machine is stopped).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event as Flag
from threading import Thread
from urllib.parse import quote

from ckptsync.agent.metadata import TIMEOUT_S, TRIES, Answer, Service
from ckptsync.agent.notice import Notice, Source, Tell
from ckptsync.clock import SYSTEM, Clock

PREEMPTED_S = 30.0
MAINTENANCE_S = 60.0
_HOLD_S = 60  # how long the service may let us wait, before the same is asked again
_PAUSE_S = 1.0
_OK = 200
_FLAVOR = {"Metadata-Flavor": "Google"}
_INSTANCE = "/computeMetadata/v1/instance/"
_log = logging.getLogger("ckptsync")


def service(environ: Mapping[str, str]) -> Service | None:
    """Where the service is, as the SDK has it; None, and a line in the log, where NO_GCE_CHECK forbids to ask.

    Raises:
        ConfigError: GCE_METADATA_HOST or GCE_METADATA_IP is no address.
    """
    if environ.get("NO_GCE_CHECK", "").lower() == "true":
        _log.info("not watching Compute Engine's notices: NO_GCE_CHECK forbids to ask")
        return None
    given = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT") or environ.get("GCE_METADATA_IP")
    return Service.at(given or "169.254.169.254")  # its name needs a resolver that may be slow off the cloud


@dataclass(frozen=True, slots=True)
class _Subject:
    """Something that is waited for.

    Attributes:
        path: below `instance/`.
        calm: its value while nothing is the matter.
    """

    path: str
    calm: str


_PREEMPTED = _Subject("preempted", "FALSE")
_MAINTENANCE = _Subject("maintenance-event", "NONE")


class GceWatcher:
    """Waits in one long poll for each subject."""

    name = "gce"

    def __init__(self, service: Service, *, clock: Clock = SYSTEM) -> None:
        """Take the service's address. Nothing is asked yet."""
        self._service, self._clock = service, clock

    def is_here(self, stop: Flag) -> bool:
        """Whether this is a machine of Compute Engine; says in one line why not. Takes less than 5 seconds."""
        problem = ""
        for _ in range(TRIES):
            if stop.is_set():
                return False
            try:
                answer = self._service.ask(_INSTANCE, fields=_FLAVOR)
            except OSError as error:
                problem = str(error) or type(error).__name__
                continue
            if _is_google(answer):
                return True
            problem = "what answers there is not Google's"
        _log.info("not watching Compute Engine's notices: no answer of %s (%s)", self._service.host, problem)
        return False

    def watch(self, tell: Tell, stop: Flag) -> None:
        """As `Watcher` asks for it."""
        if not self.is_here(stop):
            return
        Thread(
            target=self._wait_for, args=(_MAINTENANCE, tell, stop), name="ckptsync-notice-gce-maintenance", daemon=True
        ).start()
        self._wait_for(_PREEMPTED, tell, stop)

    def _wait_for(self, subject: _Subject, tell: Tell, stop: Flag) -> None:
        """Tell of each value that is not calm, once."""
        value, etag = subject.calm, ""
        while not stop.is_set():
            try:
                answer = self._asked(subject, etag)
            except OSError as error:
                _log.debug("Google's metadata service: %s", error)
                stop.wait(_PAUSE_S)
                continue
            etag = answer.fields.get("etag", "")
            if not etag:
                stop.wait(_PAUSE_S)  # who cannot wait for a change is asked at a gentle pace
            now = answer.text.strip()
            if now not in {value, subject.calm} and not stop.is_set():
                tell(self._notice(subject, now))
            value = now

    def _asked(self, subject: _Subject, etag: str) -> Answer:
        """What a subject is now at first, and then what it has become.

        Raises:
            OSError: the service does not tell.
        """
        wait = f"?wait_for_change=true&timeout_sec={_HOLD_S}&last_etag={quote(etag)}" if etag else ""
        timeout_s = _HOLD_S + 2 * TIMEOUT_S if etag else TIMEOUT_S
        answer = self._service.ask(f"{_INSTANCE}{subject.path}{wait}", fields=_FLAVOR, timeout_s=timeout_s)
        if not _is_google(answer):
            raise OSError(f"status {answer.status} for {subject.path}")
        return answer

    def _notice(self, subject: _Subject, value: str) -> Notice:
        """The notice that a change is."""
        now_s = self._clock.monotonic()
        if subject is _PREEMPTED:
            return Notice(
                source=Source.GCE,
                kind="preempted",
                final=True,
                deadline_s=now_s + PREEMPTED_S,
                message=f"Compute Engine preempts this machine, which has {PREEMPTED_S:.0f} s",
            )
        if value.startswith("MIGRATE"):
            return Notice(
                source=Source.GCE,
                kind="maintenance",
                final=False,
                deadline_s=None,
                message="Compute Engine will move this machine to another host",
            )
        return Notice(
            source=Source.GCE,
            kind="maintenance",
            final=True,
            deadline_s=now_s + MAINTENANCE_S,
            message=f"Compute Engine stops this machine for maintenance ({value}); a minute is reckoned with",
        )


def _is_google(answer: Answer) -> bool:
    """Whether it is an answer of Google's service, not of one at the same address."""
    return answer.status == _OK and answer.fields.get("metadata-flavor") == "Google"
