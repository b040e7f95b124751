"""Which sources of notices are watched, and the threads that do it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ckptsync.agent import ec2, gce
from ckptsync.agent.hook import CommandHook, FileHook
from ckptsync.agent.notice import Notice, Tell, Watcher
from ckptsync.agent.signals import noticing
from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import ConfigError
from ckptsync.options import Agent

_SOURCES = ("ec2", "gce", "signal")
_VENDOR = Path("/sys/class/dmi/id/sys_vendor")
_VENDORS = {"Amazon EC2": "ec2", "Google": "gce"}
_JOIN_S = 1.0
_log = logging.getLogger("ckptsync")


def sources(notices: str, *, vendor: str = "", environ: Mapping[str, str]) -> frozenset[str]:
    """Which sources an option `notices` stands for.

    Args:
        notices: `auto`, `none`, or names joined by commas.
        vendor: what the machine's firmware says of its maker; empty when it says nothing.
        environ: in which the addresses of metadata services may be given.

    Raises:
        ConfigError: a name is none of a source.
    """
    if notices == "none":
        return frozenset()
    if notices == "auto":
        if environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or environ.get("GCE_METADATA_HOST"):
            return frozenset(_SOURCES)
        known = _VENDORS.get(vendor)
        return frozenset({known, "signal"}) if known else frozenset(_SOURCES)
    names = [name.strip() for name in notices.split(",")]
    if unknown := [name for name in names if name not in _SOURCES]:
        raise ConfigError(f"notices has {unknown[0]!r}; it can be auto, none, or some of {', '.join(_SOURCES)}")
    return frozenset(names)


def watchers(options: Agent, *, clock: Clock = SYSTEM, environ: Mapping[str, str] | None = None) -> list[Watcher]:
    """Put together what is watched by threads, all but signals. Nothing is asked yet.

    Args:
        options: of the agent.
        clock: that deadlines are by.
        environ: None takes the process's own.

    Raises:
        ConfigError: an option or a variable cannot be used.
    """
    environ = os.environ if environ is None else environ
    wanted = sources(options.notices, vendor=_vendor(), environ=environ)
    found: list[Watcher] = []
    if "ec2" in wanted and (at_ec2 := ec2.service(environ)) is not None:
        found.append(ec2.Ec2Watcher(at_ec2, clock=clock))
    if "gce" in wanted and (at_gce := gce.service(environ)) is not None:
        found.append(gce.GceWatcher(at_gce, clock=clock))
    if options.notice_file is not None:
        found.append(FileHook(Path(options.notice_file), clock=clock))
    if options.notice_command is not None:
        found.append(CommandHook(options.notice_command, every_s=options.poll_s, clock=clock))
    return found


@contextmanager
def watching(
    options: Agent,
    tell: Tell,
    *,
    clock: Clock = SYSTEM,
    environ: Mapping[str, str] | None = None,
    signals: bool = True,
    chain: bool = False,
) -> Iterator[None]:
    """Watch for notices as long as the `with` block lasts, each source in a thread of its own.

    A source that is not here switches itself off within 5 seconds, with one line in the log; nobody waits for that.

    Args:
        options: of the agent.
        tell: called from any of those threads, and from the main one for a signal.
        clock: that deadlines are by.
        environ: None takes the process's own.
        signals: whether SIGTERM is a notice, where the options say so, too.
        chain: of SIGTERM, as for `noticing`.

    Raises:
        ConfigError: an option or a variable cannot be used.
    """
    found = watchers(options, clock=clock, environ=environ)
    wanted = sources(options.notices, environ=os.environ if environ is None else environ)
    stop = threading.Event()
    threads = [
        threading.Thread(target=_watch, args=(one, tell, stop), name=f"ckptsync-notice-{one.name}", daemon=True)
        for one in found
    ]
    with ExitStack() as exits:
        if signals and "signal" in wanted:
            exits.enter_context(noticing(tell, grace_s=options.drain_timeout_s, chain=chain, clock=clock))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(_JOIN_S / len(threads))  # a long poll is left to the end of the process


def _watch(watcher: Watcher, tell: Tell, stop: threading.Event) -> None:
    """Watch one source; whatever goes wrong in it must be seen, and disturb nobody."""

    def tell_on(notice: Notice) -> None:
        if not stop.is_set():
            tell(notice)

    try:
        watcher.watch(tell_on, stop)
    except Exception:  # noqa: BLE001  as it is said above
        _log.exception("notices of %s are no longer watched", watcher.name)


def _vendor() -> str:
    """Who made this machine, as its firmware says; empty when it says nothing."""
    try:
        return _VENDOR.read_text(errors="replace").strip()
    except OSError:
        return ""
