"""What is printed: results as JSON, references or text; errors; and what moves meanwhile."""

import dataclasses
import logging
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from share_registry.cli.hints import at_place, for_terminal
from share_registry.errors import CommitStateUnknownError, ShareRegistryError
from share_registry.escapes import indented, json_text, one_line, printable
from share_registry.outside.streams import has_every_letter
from share_registry.values.commits import Commit, Log, brief_sheet
from share_registry.values.documents import document
from share_registry.values.sheet import Sheet, as_text, sheet_of
from share_registry.values.text_table import NOTHING, Table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from share_registry.cli.session import Session

# Between two lines about progress where there is no terminal
_EVERY_S: Final = 30.0
# What makes the first of what is listed
_COMMIT: Final = "`share-registry commit ADAPTER` commits a directory of an adapter."
_FIRST: Final[Mapping[str, str]] = {
    "aliases": "`share-registry set-alias TASK@v1 prod` makes one.",
    "commits": _COMMIT,
    "spaces": _COMMIT,
    "tags": "`share-registry tag NAME REF` makes one.",
    "tasks": _COMMIT,
}
# How a text looks, by what it is
_COLOURS: Final[Mapping[str, dict[str, Any]]] = {
    "title": {"bold": True},
    "name": {"fg": "cyan"},
    "header": {"fg": "cyan"},
    "note": {"fg": "yellow"},
    "error": {"fg": "red", "bold": True},
    "key": {"fg": "yellow"},
    "hint": {"fg": "green"},
}
# Columns of tables that say what to do
_HINTS: Final = frozenset({"hint", "way out"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A result of a verb that has no value of its own in the library.

    Attributes:
        title: First line for people.
        members: What JSON has.
        refs: What `-q` prints.
        detailed: Whether people are shown the members too.
        shown: Members as people read them, where that is not how JSON has them.
    """

    title: str
    members: Mapping[str, object]
    refs: tuple[str, ...] = ()
    detailed: bool = False
    shown: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        members = {**self.members, **self.shown} if self.detailed else {}
        facts = tuple((name, str(document(member))) for name, member in members.items())
        return Sheet(title=self.title, facts=facts, refs=self.refs)


def emit(
    value: object,
    session: "Session",
    *,
    brief: bool = False,
    lists: str = "",
    sheet: Sheet | None = None,
) -> None:
    """Print one result on stdout.

    Args:
        value: The result; None prints nothing.
        session: How to print it.
        brief: Leave all but the references and reports of a commit to `show`.
        lists: What the verb lists, where it does.
        sheet: What is shown of it to people, where that is not what it always shows.
    """
    if value is None:
        return
    if session.json:
        members = value.members if isinstance(value, Printed) else value
        ascii_only = not has_every_letter(sys.stdout)
        click.echo(json_text(document(members), indent=2, ascii_only=ascii_only))
        return
    if isinstance(value, list | tuple | Log) and not value:
        options = click.get_current_context().params.items()
        filtered = any(value and name != "limit" for name, value in options)
        say(f"no {lists} {'that fit' if filtered else 'yet'}", session)
        if not filtered and lists in _FIRST:
            say(f"hint: {at_place(_FIRST[lists], session)}", session)
        return
    if sheet is None:
        sheet = brief_sheet(value) if brief and isinstance(value, Commit) else sheet_of(value)
    if session.quiet:
        for ref in sheet.refs:
            click.echo(printable(ref))
        return
    paint = _painter(sys.stdout)
    if shown := as_text(_with_commands(sheet, session), width=terminal_width(), paint=paint):
        click.echo(shown)


def _with_commands(sheet: Sheet, session: "Session") -> Sheet:
    """Return a sheet whose columns of hints say commands, as the hints of errors do."""
    root = click.get_current_context().find_root().command

    def rewritten(table: Table) -> Table:
        places = {place for place, header in enumerate(table.headers) if header in _HINTS}
        rows = tuple(
            tuple(
                at_place(for_terminal(cell, root), session)
                if place in places and cell not in ("", NOTHING)
                else cell
                for place, cell in enumerate(row)
            )
            for row in table.rows
        )
        return dataclasses.replace(table, rows=rows)

    return dataclasses.replace(sheet, tables=tuple(map(rewritten, sheet.tables)))


def terminal_width() -> int | None:
    """Return the columns of the terminal that stdout is, None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _painter(stream: TextIO) -> Callable[[str, str], str]:
    """Return what gives texts their colours: none where nobody looks or wants them (NO_COLOR)."""
    from share_registry.outside.files import Outside

    environment = Outside().environment
    if not stream.isatty() or environment("NO_COLOR") or environment("TERM") == "dumb":
        return lambda _, text: text
    return lambda kind, text: click.style(text, **_COLOURS[kind])


def say(message: str, session: "Session") -> None:
    """Print a message for people on stderr."""
    if not session.quiet:
        click.echo(printable(message), err=True)


def say_unless_new(commit: Commit, session: "Session", *, dry_run: bool, already: str) -> Commit:
    """Say on stderr what JSON does not: that nothing was written, or that it was there before.

    Args:
        commit: The result of a verb that commits.
        session: How to print it.
        dry_run: Whether nothing was to be written.
        already: What is said of a commit that was there, with `{}` for its number.
    """
    if dry_run and session.json:
        say("dry run: nothing was written", session)
    elif commit.id and not commit.created:
        say(already.format(f"c{commit.number}"), session)
    return commit


def complain(
    error: ShareRegistryError,
    session: "Session",
    *,
    root: click.Command,
    json_wanted: bool,
    about: str = "",
) -> None:
    """Say on stderr what went wrong and what to do next.

    As one JSON object where JSON is wanted.
    """
    hint = at_place(for_terminal(error.hint, root), session)
    message = f"{about}: {error.message}" if about else error.message
    key = {"key": error.key} if isinstance(error, CommitStateUnknownError) else {}
    if json_wanted:
        said = {
            "error": error.public_name,
            "message": message,
            "hint": hint,
            "exit_code": error.exit_code,
            **key,
        }
        ascii_only = not has_every_letter(sys.stderr)
        click.echo(json_text(said, ascii_only=ascii_only), err=True)
        return
    paint = _painter(sys.stderr)
    for name, text in {"error": message, **key, "hint": hint}.items():
        click.echo(f"{paint(name, name)}: {indented(text, len(name) + 2)}", err=True)


@contextmanager
def watching(
    doing: str, session: "Session", *, every_s: float = _EVERY_S
) -> Iterator[Callable[[str, int, int], None] | None]:
    """Show a bar on stderr if that is a terminal and the verb takes long; else a line at times.

    It shows what the library logs; what is yielded moves it: what is being done, how many are done,
    how many there are.
    """
    if not doing or session.quiet or (session.json and not sys.stderr.isatty()):
        yield None
        return
    if not sys.stderr.isatty():
        with _ticking(doing, every_s) as show:
            yield show
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from share_registry.cli.pace import PaceColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        PaceColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
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


@contextmanager
def _ticking(doing: str, every_s: float) -> Iterator[Callable[[str, int, int], None]]:
    """Write at times how far a verb is: who reads a log sees that it is not stuck."""
    state, ended = [doing], threading.Event()

    def tick() -> None:
        elapsed_s = 0.0
        while not ended.wait(every_s):
            elapsed_s += every_s
            click.echo(f"{one_line(state[0])}, {elapsed_s:.0f} s", err=True)

    def show(step: str, done: int, total: int) -> None:
        state[0] = f"{step}: {done} of {total}"

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield show
    finally:
        ended.set()
        ticker.join()


class _Steps(logging.Handler):
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        super().__init__(level=logging.INFO)
        self._progress = progress
        self._task = task
        self._doing = ""

    def emit(self, record: logging.LogRecord) -> None:
        self._progress.update(self._task, description=one_line(record.getMessage())[:80])

    def show(self, doing: str, done: int, total: int) -> None:
        """Move the bar; each step has a pace of its own."""
        if doing != self._doing:
            self._progress.reset(self._task, total=total)
            self._doing = doing
        self._progress.update(
            self._task, description=one_line(doing)[:80], completed=done, total=total
        )
