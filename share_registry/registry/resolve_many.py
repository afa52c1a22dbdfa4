"""Many references at once.

A fixed number of statements for the usual ones, `task`, `task@vN` and `task@ALIAS`.

What is not found this way is asked for one by one, by the resolver that also knows dates, tags, ids
and steps back, and that says what is wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from share_registry.catalog import queries
from share_registry.catalog.models import AliasRow, TaskNameRow
from share_registry.catalog.step import pieces
from share_registry.names import Reference, Selector, parse_reference
from share_registry.registry.resolve import version_of

if TYPE_CHECKING:
    from share_registry.catalog.task_version import TaskVersion

_USUAL = frozenset({Selector.LATEST, Selector.VERSION, Selector.NAME})


def versions_of(
    session: Session, refs: Iterable[str], *, space: str | None
) -> "dict[str, TaskVersion]":
    """Return the task version that each reference means now. Raises as `resolve_version`."""
    asked = {ref: parse_reference(ref) for ref in refs}
    known = queries.space_names(session)
    default = space if space is not None else known[0] if len(known) == 1 else None
    by_space: dict[str, list[Reference]] = {}
    for reference in asked.values():
        where = reference.space if reference.space is not None else default
        if (
            where in known
            and reference.task is not None
            and reference.selector in _USUAL
            and not reference.back
        ):
            by_space.setdefault(where, []).append(reference)
    found = {
        ref: row
        for where, usual in by_space.items()
        for ref, row in _usual(session, where, usual).items()
    }
    return {
        ref: found[ref] if ref in found else version_of(session, reference, space=space)
        for ref, reference in asked.items()
    }


def _usual(
    session: Session, space: str, references: Sequence[Reference]
) -> "dict[str, TaskVersion]":
    """Return those that are found without a question about dates, tags or what was dropped."""
    tasks = _task_numbers(session, space, sorted({str(reference.task) for reference in references}))
    targets = _alias_targets(
        session,
        space,
        sorted(set(tasks.values())),
        sorted({ref.value for ref in references if ref.selector is Selector.NAME}),
    )
    wanted: dict[str, tuple[int, int | None]] = {}
    for reference in references:
        task = tasks.get(str(reference.task))
        if task is not None and reference.selector is Selector.LATEST:
            wanted[reference.text] = task, None
        elif task is not None and reference.selector is Selector.VERSION:
            wanted[reference.text] = task, int(reference.value)
        elif task is not None and (task, reference.value) in targets:
            wanted[reference.text] = task, targets[task, reference.value]
    rows = queries.version_rows(session, space, set(wanted.values()))
    return {
        text: rows[key]
        for text, key in wanted.items()
        if key in rows and (key[1] is not None or rows[key].live)
    }


def _task_numbers(session: Session, space: str, names: Sequence[str]) -> dict[str, int]:
    query = select(TaskNameRow.name, TaskNameRow.task).where(TaskNameRow.space == space)
    return {
        name: task
        for piece in pieces(names)
        for name, task in session.execute(query.where(TaskNameRow.name.in_(piece)))
    }


def _alias_targets(
    session: Session, space: str, tasks: Sequence[int], names: Sequence[str]
) -> Mapping[tuple[int, str], int]:
    if not names:
        return {}
    query = select(AliasRow.task, AliasRow.name, AliasRow.version).where(
        AliasRow.space == space, AliasRow.until.is_(None), AliasRow.name.in_(names)
    )
    rows = (
        row
        for piece in pieces(tasks)
        for row in session.execute(query.where(AliasRow.task.in_(piece)))
    )
    return {(task, name): version for task, name, version in rows}
