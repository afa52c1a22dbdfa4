"""What moves on a terminal while a verb runs; nothing at all anywhere else."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from share_registry.cli.verb import Session


@contextmanager
def watching(doing: str, session: "Session") -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar on stderr if that is a terminal and the verb takes long.

    It shows what the library logs; what is yielded moves it: what is being done, how many are done,
    how many there are.
    """
    if not doing or session.quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        steps = _Steps(progress, progress.add_task(doing, total=None))
        logger = logging.getLogger("share_registry")
        level = logger.level
        logger.addHandler(steps)
        logger.setLevel(min(logging.INFO, level or logging.INFO))
        try:
            yield steps.show
        finally:
            logger.removeHandler(steps)
            logger.setLevel(level)


class _Steps(logging.Handler):
    """Shows log lines as the bar's text."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        super().__init__(level=logging.INFO)
        self._progress = progress
        self._task = task

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.update(self._task, description=record.getMessage()[:80])

    def show(self, doing: str, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, description=doing[:80], completed=done, total=total)
