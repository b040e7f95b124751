"""The verb `agent`: the sidecar in a process of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptsync.cli.options import (
    Options,
    compress,
    copy,
    max_rate,
    part_size,
    positional,
    state_dir,
    store,
    verb,
    workers,
)
from ckptsync.cli.sync import (
    checked_directory,
    checked_run,
    commit_teller,
    status_page,
    stopping,
    sync_config,
    synced,
    telling,
)

if TYPE_CHECKING:
    from ckptsync.agent.agent import Agent
    from ckptsync.cli.sync import Stop

_GLANCE_S = 0.5


@verb(
    positional("path", shown="DIR"),
    positional("run"),
    synced,
    workers,
    part_size,
    max_rate,
    compress,
    copy,
    state_dir,
    store,
)
def agent(options: Options, path: str, run: str) -> None:
    """Commit every checkpoint of a directory while a training writes them.

    DIR need not be there yet, and nothing is written in it. SIGTERM lets it finish what is whole and exit: with 0 when all is
    durable, 75 when it is not. A file DIR/.ckptsync-done does the same. DIR may be left out when CKPTSYNC_DIR is set, RUN when
    CKPTSYNC_RUN is.
    """
    from ckptsync.agent.agent import Agent
    from ckptsync.agent.ask import asker
    from ckptsync.agent.notice import Notice, Source
    from ckptsync.agent.watching import watching
    from ckptsync.cli.structured import spanned

    config = sync_config(options)

    def tell(notice: Notice) -> None:
        # a sidecar is ended behind its trainer: nobody is there to be asked, and draining does the rest
        working.notice(replace(notice, final=False) if notice.source is Source.SIGNAL else notice)

    with (
        stopping() as stop,
        telling(options, config.agent) as (observer, spans),
        Agent(
            checked_directory(path),
            checked_run(run),
            config=config,
            observer=observer,
            asker=asker(config.agent.ask),
            committed=commit_teller(options, config.agent),
        ) as working,
        status_page(options, config, working, run, stop.asked.set),
        watching(config.agent, tell, chain=True),
    ):
        working.start()
        _wait(working, stop)
        with spanned(spans, "drain"):
            working.drain(
                config.agent.drain_timeout_s, trainer_ended=True
            )  # as above: what was asked for is not waited for


def _wait(working: Agent, stop: Stop) -> None:
    """Return when a signal asks for the end, when the trainer is done, or when it can go on no longer."""
    while not stop.asked.wait(_GLANCE_S):
        if working.ended.is_set() or working.trainer_done.is_set():
            return
