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
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from share_registry.cli.hints import for_terminal
from share_registry.errors import CommitStateUnknownError, ShareRegistryError
from share_registry.times import timestamp
from share_registry.values import commits, sheet
from share_registry.values.checks import Diff, Export, VerifyReport
from share_registry.values.commits import Commit, Log
from share_registry.values.references import Alias, AliasMove, ResolvedReference, Tag
from share_registry.values.sheet import printable
from share_registry.values.tasks import Lineage, SpaceSummary, Task

if TYPE_CHECKING:
    from share_registry.cli.verb import Session

_LISTED: Final = {
    "log": "commits",
    "tasks": "tasks",
    "ls": "tasks",
    "aliases": "aliases",
    "alias-history": "moves",
    "tags": "tags",
    "spaces": "spaces",
}
"""Verbs that list, and what."""
_DERIVED: Final[Mapping[str, tuple[str, ...]]] = {
    "Commit": ("ref", "task", "version", "report"),
    "AdapterReport": ("worst_module",),
    "ResolvedReference": ("long",),
    "VerifyReport": ("ok",),
}
"""Properties that a document has beside the fields."""


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


def emit(value: object, session: "Session", *, brief: bool = False) -> None:
    """Print one result on stdout.

    None prints nothing, `brief` leaves the modules of a commit to `show`.
    """
    if value is None:
        return
    if isinstance(value, list | tuple | Log) and not value and not session.json:
        say(_none_of(), session)
    elif session.json:
        click.echo(json.dumps(document(value), indent=2, ensure_ascii=False))
    elif session.quiet:
        for ref in refs(value):
            click.echo(ref)
    elif shown := sheet.text(_sheet(value, brief=brief), width=_width()):
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
    return _members(value) if dataclasses.is_dataclass(value) else value


def refs(value: object) -> list[str]:
    """Return the references in a result."""
    if isinstance(value, list | tuple | Log):
        return [ref for item in value for ref in refs(item)]
    if type(value).__name__ == "Similar":
        return [neighbour.ref for neighbour in getattr(value, "neighbours", ())]
    found = _REFS.get(type(value))
    return [ref for ref in found(value) if ref] if found else []


def _members(value: object) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(value)]  # type: ignore[arg-type]
    return {
        name: document(getattr(value, name))
        for name in (*names, *_DERIVED.get(type(value).__name__, ()))
    }


def _sheet(value: object, *, brief: bool) -> sheet.Sheet:
    if not isinstance(value, Printed):
        return (
            commits.brief(value) if brief and isinstance(value, Commit) else sheet.sheet_of(value)
        )
    facts = tuple(
        (name, str(document(member))) for name, member in value.members.items() if value.detailed
    )
    return sheet.Sheet(title=value.title, facts=facts)


def _none_of() -> str:
    """Say that the running verb found nothing, and whether it was asked for some or for all."""
    context = click.get_current_context()
    some = any(value and name != "limit" for name, value in context.params.items())
    return (
        f"no {_LISTED.get(context.command.name or '', 'entries')} {'that fit' if some else 'yet'}"
    )


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _diff_refs(diff: Diff) -> Iterable[str]:
    return (task.b or task.a or "" for task in diff.tasks if task.status != "same")


_REFS: Final[Mapping[type, Callable[..., Iterable[str]]]] = {
    Alias: lambda alias: [alias.ref],
    AliasMove: lambda move: [move.ref],
    Commit: lambda commit: list(commit.refs.values()) or [commit.ref],
    Diff: _diff_refs,
    Export: lambda export: [str(export.path)],
    Lineage: lambda lineage: [node.ref for node in lineage.nodes],
    Printed: lambda printed: printed.refs,
    ResolvedReference: lambda resolved: [resolved.ref],
    SpaceSummary: lambda space: [space.name],
    Tag: lambda tag: [f"{tag.space}/@{tag.name}"],
    Task: lambda task: [task.ref],
    VerifyReport: lambda report: sorted(
        {ref for finding in report.findings for ref in finding.refs}
    ),
}
