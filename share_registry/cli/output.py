"""Printing results: JSON documents, bare references, or text for people.

A JSON document has the members of the returned value, by name: times are RFC 3339 in UTC, paths and
digests strings, absent values null; lists stay lists. Members are only ever added (docs/cli.md
lists them).
"""

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import click

from share_registry.cli.hints import for_terminal
from share_registry.errors import CommitStateUnknownError, ShareRegistryError
from share_registry.times import timestamp
from share_registry.values.commits import Commit, Log, brief_sheet
from share_registry.values.sheet import Sheet, as_text, printable, sheet_of

if TYPE_CHECKING:
    from share_registry.cli.verb import Session


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """A result of a verb that has no value of its own in the library.

    Attributes:
        title: First line for people.
        members: What JSON has.
        refs: What `-q` prints.
        detailed: Whether people are shown the members too.
    """

    title: str
    members: Mapping[str, object]
    refs: tuple[str, ...] = ()
    detailed: bool = False

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        members = self.members if self.detailed else {}
        facts = tuple((name, str(document(member))) for name, member in members.items())
        return Sheet(title=self.title, facts=facts, refs=self.refs)


def emit(value: object, session: "Session", *, brief: bool = False, lists: str = "") -> None:
    """Print one result on stdout.

    Args:
        value: The result; None prints nothing.
        session: How to print it.
        brief: Leave the modules of a commit to `show`.
        lists: What the verb lists, where it does.
    """
    if value is None:
        return
    if session.json:
        click.echo(json.dumps(document(value), indent=2, ensure_ascii=False))
        return
    if isinstance(value, list | tuple | Log) and not value:
        parameters = click.get_current_context().params
        filtered = any(value and name != "limit" for name, value in parameters.items())
        say(f"no {lists} {'that fit' if filtered else 'yet'}", session)
        return
    sheet = brief_sheet(value) if brief and isinstance(value, Commit) else sheet_of(value)
    if session.quiet:
        for ref in sheet.refs:
            click.echo(ref)
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if shown := as_text(sheet, width=width):
        click.echo(shown)


def say(message: str, session: "Session") -> None:
    """Print a message for people on stderr."""
    if not session.quiet:
        click.echo(message, err=True)


def complain(error: ShareRegistryError, *, json_wanted: bool, about: str = "") -> None:
    """Say on stderr what went wrong and what to do next.

    As one JSON object where JSON is wanted.
    """
    hint = for_terminal(error.hint)
    message = f"{about}: {error.message}" if about else error.message
    key = {"key": error.key} if isinstance(error, CommitStateUnknownError) else {}
    if json_wanted:
        said = {
            "error": type(error).__name__,
            "message": message,
            "hint": hint,
            "exit_code": error.exit_code,
            **key,
        }
        click.echo(json.dumps(said, ensure_ascii=False), err=True)
        return
    for name, text in {"error": message, **key, "hint": hint}.items():
        click.echo(f"{name}: {printable(text)}", err=True)


def document(value: object) -> object:
    """Return a result as JSON values."""
    match value:
        case Printed():
            return document(value.members)
        case Log():
            return [document(commit) for commit in value]
        case datetime():
            return timestamp(value)
        case Path():
            return str(value)
        case Enum():
            return value.value
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {str(name): document(member) for name, member in value.items()}
        case list() | tuple() | set() | frozenset():
            return [document(member) for member in value]
    if not dataclasses.is_dataclass(value):
        return value
    fields = (field.name for field in dataclasses.fields(value))
    return {
        name: document(getattr(value, name)) for name in (*fields, *getattr(value, "derived", ()))
    }
