"""How far a program is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

Item = TypeVar("Item")


def say(line: str) -> None:
    """A line for the reader, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """``with Progress("train", 100) as progress: progress.update(step, "loss 0.4")``.

    Args:
        what: Name of the work.
        total: Steps in all.
        every: Seconds between two lines where stderr is no terminal.
        log: Also gets each of those lines, terminal or not.
    """

    def __init__(
        self, what: str, total: int, every: float = 10.0, log: Callable[[str], None] | None = None
    ):
        self.what, self.total, self.every, self.log = what, total, every, log
        self.start = self.last_line = time.monotonic()
        self.first: int | None = None
        self.bar: Any = None
        self.done = 0

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self.bar = _bar(self.what, self.total)
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def update(self, done: int, text: str = "") -> None:
        if self.first is None:
            self.first = done - 1
        self.done = done
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, text=text)
        now = time.monotonic()
        if now - self.last_line >= self.every or done == self.total:
            self.last_line = now
            rate = (done - self.first) / max(now - self.start, 1e-9)
            left = (self.total - done) / rate if rate > 0 else 0.0
            line = f"{self.what} {done}/{self.total}  {text}  {_clock(left)} left".rstrip()
            if self.bar is None:
                say(line)
            if self.log is not None:
                self.log(line)

    def over(self, items: Iterable[Item], text: str = "") -> Iterator[Item]:
        """Passes ``items`` on, counting each when it is done with."""
        for done, item in enumerate(items, start=1):
            yield item
            self.update(done, text)


def _bar(what: str, total: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task(what, total=total, text="")
    return bar


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
