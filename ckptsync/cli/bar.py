"""The progress bar on a terminal; the only module that loads rich."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ckptsync.cli.meter import BEGINS, Meter
from ckptsync.events import Event, Observer

_BAR_WIDTH = 24


class _Facts(ProgressColumn):
    """What the meter says, refreshed also while nothing moves."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, task: Task) -> Text:
        """Return the line behind the bar."""
        del task
        return Text(self._meter.line(), no_wrap=True, overflow="ellipsis")


@contextmanager
def bar(meter: Meter, doing: str, console: Console | None = None) -> Iterator[Observer]:
    """Show a bar on stderr from the first PLANNED on; it is gone when the `with` block ends, and stdout is never touched.

    Args:
        meter: does the counting.
        doing: the word before the bar.
        console: replaced in tests.
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=_BAR_WIDTH), _Facts(meter))
    console = console or Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(doing, total=None, visible=False)

        def tell(event: Event) -> None:
            meter.tell(event)
            begun = True if event.kind in BEGINS else None
            progress.update(task, total=meter.planned_bytes or None, completed=meter.done_bytes, visible=begun)

        yield tell
