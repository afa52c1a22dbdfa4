"""What differs between two task versions, or between two states of a space."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import log, task_pages
from share_registry.catalog.queries.resolution import resolve
from share_registry.errors import InvalidInputError
from share_registry.names import TaskName
from share_registry.registry.checkout.checkout import checkout
from share_registry.registry.context import Context
from share_registry.values.checks import Diff, TaskDiff
from share_registry.values.commits import Commit
from share_registry.values.references import ResolvedReference

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.exchange.adapter import Adapter

_ABSENT: Final = "-"
_Change = tuple[str, str]


def diff(context: Context, a: str, b: str, *, space: str | None) -> Diff:
    """Compare two task versions (of any tasks) or two states of one space or of two.

    Raises:
        NotFoundError: one of them does not exist.
        InvalidInputError: one is a task version and the other a whole space.
    """
    default = space
    with context.reading() as session:
        left, right = resolve(session, a, space=default), resolve(session, b, space=default)
        if (left.task is None) != (right.task is None):
            raise InvalidInputError(
                f"{a!r} and {b!r} are a task version and a whole space.",
                hint="Compare cola@v1 with cola@v2, or @c3 with @c9.",
            )
        pairs = (
            [(TaskName(str(left.task)), left.ref, right.ref)]
            if left.task is not None
            else _both(_states(session, left), _states(session, right))
        )
    return Diff(
        a=left.ref,
        b=right.ref,
        tasks=tuple(_task(context, task, one, other) for task, one, other in pairs),
    )


def _states(session: "Session", state: ResolvedReference) -> dict[TaskName, str]:
    return {
        task.name: task.ref
        for task in task_pages.tasks(
            session, task_pages.TaskQuery(space=state.space, at=f"c{state.number}")
        )
    }


def _both(
    left: Mapping[TaskName, str], right: Mapping[TaskName, str]
) -> list[tuple[TaskName, str | None, str | None]]:
    return [(task, left.get(task), right.get(task)) for task in sorted({*left, *right})]


def _task(context: Context, task: TaskName, a: str | None, b: str | None) -> TaskDiff:
    if a is None or b is None:
        return TaskDiff(
            task=task,
            status="added" if a is None else "removed",
            a=a,
            b=b,
            change=None,
            metadata={},
        )
    if a == b:
        return TaskDiff(task=task, status="same", a=a, b=b, change=0.0, metadata={})
    left, right = checkout(context, a, space=None), checkout(context, b, space=None)
    change = _change(left, right)
    metadata = {**_config(left, right), **_annotations(context, a, b)}
    same = change == 0.0 and not metadata
    return TaskDiff(
        task=task, status="same" if same else "changed", a=a, b=b, change=change, metadata=metadata
    )


def _change(left: "Adapter", right: "Adapter") -> float | None:
    """Return |dW_b - dW_a| / |dW_a|; None where dW_a is 0."""
    from math import isfinite

    from share_registry.algebra.error import relative_change

    change = relative_change(left.factor_pairs(), right.factor_pairs())
    return change if isfinite(change) else None


def _config(left: "Adapter", right: "Adapter") -> dict[str, _Change]:
    changed = _changes(
        {name: _text(value) for name, value in left.config.items()},
        {name: _text(value) for name, value in right.config.items()},
        "config.",
    )
    return changed | _changes(_described(left), _described(right), "")


def _described(adapter: "Adapter") -> dict[str, str]:
    """Say what the layout is, in a few words."""
    dtypes = sorted({spec.dtype.value for spec in adapter.layout.tensors})
    ranks = sorted({shape.rank for shape in adapter.layout.modules()})
    return {
        "modules": str(len(adapter.layout.modules())),
        "ranks": ", ".join(map(str, ranks)),
        "dtypes": ", ".join(dtypes),
        "attachments": ", ".join(sorted(adapter.attachments)),
    }


def _annotations(context: Context, a: str, b: str) -> dict[str, _Change]:
    with context.catalog.begin() as session:
        left, right = log.show(session, a), log.show(session, b)
    labels = _changes(dict(left.labels), dict(right.labels), "label ")
    return labels | _changes(_numbers(left), _numbers(right), "metric ")


def _numbers(commit: Commit) -> dict[str, str]:
    return {name: repr(value) for name, value in commit.metrics.items()}


def _changes(left: Mapping[str, str], right: Mapping[str, str], prefix: str) -> dict[str, _Change]:
    names = sorted({*left, *right})
    return {
        f"{prefix}{name}": (left.get(name, _ABSENT), right.get(name, _ABSENT))
        for name in names
        if left.get(name) != right.get(name)
    }


def _text(value: object) -> str:
    return ", ".join(sorted(map(str, value))) if isinstance(value, list) else str(value)
