"""What differs between two task versions, or between two states of a space."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Final

from share_registry.algebra.comparison import have_common
from share_registry.algebra.error import FactorPair, relative_changes
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import log, task_pages
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.grown_vocabulary import align
from share_registry.exchange.normal_form import pairs_of_function
from share_registry.names import TaskName, parse_reference
from share_registry.registry.checkout.checkout import checkout
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_given
from share_registry.values.checks import Diff, TaskDiff
from share_registry.values.references import ResolvedReference

_ABSENT: Final = "-"
_Change = tuple[str, str]


@one_thread()
def diff(context: Context, a: str, b: str, *, space: str | None) -> Diff:
    """Compare two task versions (of any tasks) or two states of one space or of two.

    Raises:
        NotFoundError: one of them does not exist.
        InvalidInputError: one is a task version and the other a whole space.
        RefusedError: they are of base models that have no module in common.
    """
    with context.reading() as session:
        left, right = resolve(session, a, space=space), resolve(session, b, space=space)
        ensure(
            (left.task is None) == (right.task is None),
            InvalidInputError(
                f"{a!r} and {b!r} are a task version and a whole space.",
                hint="Compare cola@v1 with cola@v2, or @c3 with @c9.",
            ),
        )
        left_refs, right_refs = _refs(session, left), _refs(session, right)
        claims = [
            claim
            for ref, state in ((a, left), (b, right))
            for claim in claims_of_reference(session, ref, space=space, present=state.task)
        ]
    require_given(context, claims)
    if left.task is not None:
        # of any two tasks: the diff goes by the name of the first
        right_refs = {TaskName(left.task): right.ref}
    tasks = tuple(
        _diff_task(context, task, left_refs.get(task), right_refs.get(task))
        for task in sorted({*left_refs, *right_refs})
    )
    return Diff(a=left.ref, b=right.ref, tasks=tasks)


def _refs(session: Session, state: ResolvedReference) -> dict[TaskName, str]:
    if state.task is not None:
        return {TaskName(state.task): state.ref}
    query = task_pages.TaskQuery(space=state.space, at=f"c{state.number}")
    return {task.name: task.ref for task in task_pages.tasks(session, query)}


def _diff_task(context: Context, task: TaskName, a: str | None, b: str | None) -> TaskDiff:
    change: float | None = None
    modules: dict[str, float | None] = {}
    metadata: dict[str, _Change] = {}
    if a is None:
        status = "added"
    elif b is None:
        status = "removed"
    elif a == b:
        status, change = "same", 0.0
    else:
        left, right = checkout(context, a, space=None), checkout(context, b, space=None)
        change, modules = changes_by_module(left, right, refs=(a, b))
        metadata = {
            **_changes(_config(left), _config(right), "config."),
            **_changes(_layout_facts(left), _layout_facts(right), ""),
            **_annotations(context, a, b),
        }
        status = "same" if change == 0.0 and not metadata else "changed"
    return TaskDiff(
        task=task, status=status, a=a, b=b, change=change, metadata=metadata, modules=modules
    )


def relative_to_first(left: Adapter, right: Adapter, *, refs: tuple[str, str]) -> float | None:
    """Return |dW_left - dW_right| / |dW_left|, None where dW_left is 0.

    Raises RefusedError where they are of base models that have no module in common.
    """
    return changes_by_module(left, right, refs=refs)[0]


def changes_by_module(
    left: Adapter, right: Adapter, *, refs: tuple[str, str]
) -> tuple[float | None, dict[str, float | None]]:
    """Return the change of all modules, as `relative_to_first`, and that of each."""
    pairs = align([(each.layout, pairs_of_function(each)) for each in (left, right)])
    _check_comparable(*refs, pairs)
    pooled, modules = relative_changes(*pairs)
    return _finite(pooled), {module: _finite(change) for module, change in modules.items()}


def _check_comparable(a: str, b: str, pairs: Sequence[Sequence[FactorPair]]) -> None:
    """Check that versions of two spaces are of like base models. Raises RefusedError."""
    ensure(
        parse_reference(a).space == parse_reference(b).space
        or not all(pairs)
        or have_common(*pairs),
        RefusedError(
            f"{a} and {b} are of different base models: no module has the same name and shape in "
            "both, so nothing is comparable.",
            hint="Compare adapters of one base model.",
        ),
    )


def _finite(change: float) -> float | None:
    return change if isfinite(change) else None


def _config(adapter: Adapter) -> dict[str, str]:
    return {
        name: ", ".join(sorted(map(str, value))) if isinstance(value, list) else str(value)
        for name, value in adapter.config.items()
    }


def _layout_facts(adapter: Adapter) -> dict[str, str]:
    modules = adapter.layout.modules()
    return {
        "modules": str(len(modules)),
        "ranks": ", ".join(map(str, sorted({shape.rank for shape in modules}))),
        "dtypes": ", ".join(sorted({spec.dtype.value for spec in adapter.layout.tensors})),
        "attachments": ", ".join(sorted(adapter.attachments)),
    }


def _annotations(context: Context, a: str, b: str) -> dict[str, _Change]:
    with context.catalog.begin() as session:
        left, right = log.show(session, a), log.show(session, b)
    return {
        **_changes(left.labels, right.labels, "label "),
        **_changes(
            {name: repr(value) for name, value in left.metrics.items()},
            {name: repr(value) for name, value in right.metrics.items()},
            "metric ",
        ),
    }


def _changes(left: Mapping[str, str], right: Mapping[str, str], prefix: str) -> dict[str, _Change]:
    return {
        f"{prefix}{name}": (left.get(name, _ABSENT), right.get(name, _ABSENT))
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    }
