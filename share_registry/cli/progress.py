"""What moves on a terminal while a verb runs; nothing at all anywhere else."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from share_registry.cli.verb import Session


@contextmanager
def watching(doing: str, session: "Session") -> Iterator[None]:
    """Show a bar with what the library logs, on stderr if that is a terminal and the verb takes long."""
    if not doing or session.quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        steps = _Steps(progress, progress.add_task(doing, total=None))
        logger = logging.getLogger("share_registry")
        level = logger.level
        logger.addHandler(steps)
        logger.setLevel(min(logging.INFO, level or logging.INFO))
        try:
            yield
        finally:
            logger.removeHandler(steps)
            logger.setLevel(level)


class _Steps(logging.Handler):
    """Shows log lines as the bar's text; `extra={"done": 3, "total": 12}` moves it."""

    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        super().__init__(level=logging.INFO)
        self._progress = progress
        self._task = task

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.update(
            self._task,
            description=record.getMessage()[:80],
            completed=getattr(record, "done", None),
            total=getattr(record, "total", None),
        )
