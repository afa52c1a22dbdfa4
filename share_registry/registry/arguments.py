"""What the public methods check of their arguments.

One table says by the name of a parameter what kind of value it must be; `guarded` puts it before
every public method of the facade.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from inspect import isfunction, signature
from numbers import Real
from sys import float_info
from types import NoneType
from typing import Any, Final, ParamSpec, TypeVar

from share_registry import kinds
from share_registry.catalog.sql import MOST
from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import member_of, shown, wrong_kind
from share_registry.registry.admission import check_checks
from share_registry.store.protocol import Store
from share_registry.values.audits import Checkpoint
from share_registry.values.commits import Commit
from share_registry.values.imports import ImportSource
from share_registry.values.policy import ENERGY, UNIT, Policy, check_budget
from share_registry.values.references import ResolvedReference
from share_registry.values.shards import check_shard, check_subset
from share_registry.values.tasks import Task

_P = ParamSpec("_P")
_T = TypeVar("_T")

# A reference as it may be given: typed, or what an earlier call returned
Ref = str | Commit | ResolvedReference
# Called with what is being done, how many are done and how many there are
Progress = Callable[[str, int, int], None]
_LONGEST_AUTHOR: Final = 256
_MOST_WORKERS: Final = 1024
_MOST_DAYS: Final = 36_500


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitOptions:
    """What a caller says about a commit, apart from the adapters."""

    budget: float | None = None
    message: str = ""
    author: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    derived_from: Sequence[str] = ()
    keep_original: bool | None = None
    adapter_name: str | None = None
    format: str | None = None
    expected: int | None = None
    idempotency_key: str | None = None
    allow_base_mismatch: bool = False
    allow_duplicate: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a caller says about a change: why, and who; None for the registry's default author."""

    reason: str = ""
    author: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitOptions:
    """What a refit is asked for; see `Registry.refit`."""

    max_rank: int | None = None
    energy: float | None = None
    weighting: str = UNIT
    budget: float | None = None
    allow_loss: bool = False
    force: bool = False
    message: str = ""
    author: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        ensure(
            self.weighting in (UNIT, ENERGY),
            InvalidInputError(
                f"weighting {self.weighting!r} is not 'unit' or 'energy'.",
                hint="unit counts every task alike, energy by the square of its norm.",
            ),
        )
        ensure(
            self.energy is None or (isinstance(self.energy, int | float) and 0 < self.energy <= 1),
            InvalidInputError(
                f"energy {shown(self.energy)} is not a share above 0 and at most 1.",
                hint="0.6 captures 60 % of the energy.",
            ),
        )
        ensure(
            self.max_rank is None or self.max_rank >= 1,
            InvalidInputError(
                f"max_rank {shown(self.max_rank)} is not at least 1.",
                hint="Leave it out to keep as many directions as pay.",
            ),
        )
        if self.budget is not None:
            check_budget(self.budget)
        ensure(
            self.budget is None or not self.allow_loss,
            InvalidInputError(
                "allow_loss is given beside a budget.",
                hint="A budget limits what re-expressing may lose, allow_loss=True lifts every "
                "limit: give one of them.",
            ),
        )

    @property
    def reexpresses(self) -> bool:
        """Whether stored tasks are re-expressed."""
        return self.allow_loss or self.budget is not None


def ignore_progress(doing: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def guarded(facade: type[_T]) -> type[_T]:
    """Check the arguments of a class's public methods by the table."""
    for name, method in list(vars(facade).items()):
        if name.startswith("_"):
            continue
        if isfunction(method):
            setattr(facade, name, checks_arguments(method))
        elif isinstance(method, classmethod):
            setattr(facade, name, classmethod(checks_arguments(method.__func__)))
    return facade


def checks_arguments(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Check the arguments of a function by the table."""
    checks = {
        name: _CHECKS.get(f"{function.__name__}.{name}", _CHECKS.get(name))
        for name in signature(function).parameters
    }
    return kinds.takes(**{name: check for name, check in checks.items() if check})(function)


def reference(ref: Ref) -> str:
    """Return a reference as text. Raises InvalidInputError."""
    return _reference("ref", ref)


def references(refs: Ref | Iterable[Ref]) -> tuple[str, ...]:
    """Return references as texts; a single one may stand alone. Raises InvalidInputError."""
    return _references("refs", refs)


def check_distinct(labels: Iterable[str], metrics: Iterable[str]) -> None:
    """Check that no label of a version has the name of a metric of it.

    Raises InvalidInputError.
    """
    both = sorted({*labels} & {*metrics})
    ensure(
        not both,
        InvalidInputError(
            f"{', '.join(map(repr, both))} would be a label and a metric of one version.",
            hint="Give one of them another name.",
        ),
    )


def check_place(name: str, value: Any) -> None:
    """Check that a place of a registry can be named in its catalog's URL.

    Raises InvalidInputError.
    """
    kinds.path(name, value)
    kinds.text(name, os.fspath(value))


def check_copy(name: str, value: Any) -> Any:
    """Return a place of a store, or an open one. Raises InvalidInputError."""
    # texts and paths are told apart first: a store may be any object with its members
    if isinstance(value, str | os.PathLike) or not isinstance(value, Store):
        check_place(name, value)
    return value


def check_author(name: str, value: Any) -> str:
    """Check that a text names an author as a note can hold it. Raises InvalidInputError."""
    author = kinds.text(name, value)
    if len(author) > _LONGEST_AUTHOR:
        raise wrong_kind(name, value, f"at most {_LONGEST_AUTHOR} characters", "Shorten it.")
    return author


def _days(hint: str) -> kinds.Check:
    """Return the check that a value is a number of days."""

    def check(name: str, value: Any) -> float:
        days = _number(name, value)
        ensure(
            0 <= days <= _MOST_DAYS,
            InvalidInputError(
                f"{name} {shown(value)} is not a number of days from 0 to {_MOST_DAYS}.", hint=hint
            ),
        )
        return float(days)

    return check


def _reference(name: str, value: Any) -> str:
    if isinstance(value, Commit | ResolvedReference):
        return value.ref
    if isinstance(value, str):
        return kinds.text(name, value)
    raise wrong_kind(
        name,
        value,
        "a reference",
        "Give a text such as cola@v3, or a Commit or ResolvedReference that a call returned.",
    )


def _references(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str | Commit | ResolvedReference):
        return (_reference(name, value),)
    return tuple(_refs(name, value))


def check_source(name: str, value: Any) -> Any:
    """Check a place that an adapter may lie at; what else it may be is the importers' matter."""
    return kinds.path(name, value) if isinstance(value, str | os.PathLike) else value


def check_import(name: str, value: Any) -> Any:
    """Check one thing to import, and what it says of itself. Raises InvalidInputError."""
    if not isinstance(value, ImportSource):
        return check_source(name, value)
    members: Mapping[str, kinds.Check] = {
        "adapter": check_source,
        "message": kinds.text,
        "labels": _labels,
        "metrics": _metrics,
        "derived_from": _references,
        "is_derived": kinds.flag,
        "format": kinds.either(NoneType, kinds.text),
        "task": kinds.either(NoneType, kinds.text),
        "space": kinds.either(NoneType, kinds.text),
        "source_time": kinds.either(NoneType, _moment),
    }
    checked = {
        member: check(f"{member} of an ImportSource", getattr(value, member))
        for member, check in members.items()
    }
    return ImportSource(**checked)


def _sources(name: str, value: Any) -> dict[str, Any]:
    adapters = kinds.mapping(name, value)
    return {
        kinds.text("task", task): check_source(name, adapter) for task, adapter in adapters.items()
    }


def _imported(name: str, value: Any) -> list[Any]:
    """Return what is to be imported; a single place may stand alone."""
    is_single = isinstance(value, str | os.PathLike | ImportSource)
    adapters: list[Any] = _adapters(name, [value] if is_single else value)
    return adapters


def _parents(name: str, value: Any) -> dict[str, Any]:
    parents = kinds.mapping(name, value).items()
    return {_reference(name, ref): weight for ref, weight in parents}


def _labels(name: str, value: Any) -> dict[str, str]:
    """Return labels; a plain number among them becomes its text."""
    labels = {}
    for label, item in kinds.mapping(name, value).items():
        scalar = _scalar(item)
        if isinstance(scalar, int | float) and not isinstance(scalar, bool):
            # more digits than Python writes are no label
            scalar = str(scalar) if _is_float64(scalar) else scalar
        labels[kinds.text(f"a name in {name}", label)] = kinds.text(
            f"{name}[{shown(label)}]", scalar
        )
    return labels


def _metrics(name: str, value: Any) -> dict[str, float]:
    """Return metrics as numbers of Python; a tensor or an array of no dimension is one."""
    metrics = {}
    for metric, number in kinds.mapping(name, value).items():
        scalar = _scalar(number)
        if not isinstance(scalar, Real | Decimal) or isinstance(scalar, bool):
            raise wrong_kind(
                f"{name}[{shown(metric)}]",
                number,
                "one number",
                "Give a number: of an array or tensor of one value its .item(), text as a label.",
            )
        metrics[kinds.text(f"a name in {name}", metric)] = (
            scalar if isinstance(scalar, int) else _float(name, scalar)
        )
    return metrics


def _float(name: str, number: Any) -> float:
    try:
        return float(number)
    except (ValueError, OverflowError) as error:
        # a signalling NaN, a fraction past float64
        raise wrong_kind(name, number, "a finite number", "Give a float.") from error


def _is_float64(number: float) -> bool:
    return isinstance(number, float) or abs(number) <= float_info.max


def _scalar(value: Any) -> Any:
    """Return the number in an array or tensor of no dimension, or the value itself."""
    if member_of(value, "shape") != () or not callable(member_of(value, "item")):
        return value
    try:
        return value.item()
    # whatever an array of somebody's own raises: it holds no number then
    except Exception:  # noqa: BLE001
        return value


def _as_text(name: str, value: Any) -> Any:
    """Check what may be a text or something else, of which whoever uses it says what is wrong."""
    return kinds.text(name, value) if isinstance(value, str) else value


_whole: Final = kinds.whole(0, "Give an int.")
_moment: Final = kinds.of(
    str | date, "a date or time", "Give a datetime, or write 2026-11-16 or 2026-11-16T12:00Z."
)
_number: Final = kinds.of(int | float, "a number", "Give a float.")
_adapters: Final = kinds.several(
    lambda name, value: check_import(name, value),
    "adapters",
    "Give a list of directories, adapters or ImportSources.",
)
_refs: Final = kinds.several(_reference, "references", "Give a list of references such as cola@v1.")
check_budgets: Final = kinds.several(
    lambda _, value: check_budget(value), "budgets", "Give a list of numbers such as [0.01, 0.05]."
)
# What a parameter of this name must be, of one method or of all
_CHECKS: Final[Mapping[str, kinds.Check]] = {
    "a": _reference,
    "accept_loss": kinds.either(bool, kinds.text),
    "action": kinds.text,
    "actor": check_author,
    "adapter": check_source,
    "adapter_name": kinds.text,
    "adapters": _sources,
    "after": kinds.either(Task, kinds.text),
    "alias": kinds.text,
    "all_versions": kinds.flag,
    "allow_base_mismatch": kinds.flag,
    "allow_duplicate": kinds.flag,
    "allow_loss": kinds.flag,
    "at": kinds.either(str | date, kinds.whole(1, "Give a commit, a tag, a date or a time.")),
    "author": check_author,
    "b": _reference,
    "base_labels": kinds.texts,
    "base_config": kinds.path,
    "base_model": kinds.text,
    "base_revision": kinds.text,
    "before": kinds.either(
        Ref, kinds.whole(1, "Give the number of a commit, or a reference such as c12.")
    ),
    "budget": lambda _, value: check_budget(value),
    "budgets": check_budgets,
    "compare": kinds.flag,
    "create": kinds.flag,
    "checks": check_checks,
    "density": _number,
    "derived_from": _references,
    "device": _as_text,
    "digests": kinds.texts,
    "dry_run": kinds.flag,
    "dtype": _as_text,
    "energy": _number,
    "exact": kinds.flag,
    "exist_ok": kinds.flag,
    "expected": kinds.whole(0, "Give an int (`expected=ABSENT`: there must be none)."),
    "expires": kinds.of(str | timedelta, "a length of time", "Give a timedelta, or write 30d."),
    "force": kinds.flag,
    "graph": kinds.flag,
    "keep_days": _days("30 keeps what was committed in the last 30 days."),
    "keep_last": kinds.whole(0, "Give an int: so many of the newest versions stay."),
    "keep_tagged": kinds.flag,
    "format": kinds.text,
    "from_": check_copy,
    "from_file": kinds.path,
    "grace_days": _days(
        "7 spares what is no older than a week; 0 spares nothing: only where nobody uses it."
    ),
    "idempotency_key": kinds.text,
    "identity": kinds.text,
    "issuer": kinds.text,
    "keep_original": kinds.flag,
    "key": kinds.path,
    "kind": kinds.text,
    "labels": _labels,
    "level": kinds.text,
    "limit": kinds.either(NoneType, kinds.whole(1, "Give None for all.", most=MOST)),
    "location": kinds.path,
    "max_rank": _whole,
    "message": kinds.text,
    "method": kinds.text,
    "metric": kinds.text,
    "metrics": _metrics,
    "mode": kinds.text,
    "modules": kinds.text,
    "name": kinds.text,
    "new": kinds.text,
    "on_error": kinds.text,
    "overwrite": kinds.flag,
    "parents": _parents,
    # what `prepare` returned; looked at where it is published
    "prepared": lambda _, value: value,
    "private": kinds.flag,
    "policy": kinds.of(Policy, "a Policy", "Give share_registry.Policy(budget=..., ...)."),
    "profile": kinds.text,
    "progress": kinds.progress,
    "prune": kinds.flag,
    "raise_on_damage": kinds.flag,
    "reason": kinds.text,
    "record": kinds.flag,
    "ref": _reference,
    "remove": kinds.texts,
    "root": kinds.path,
    "refs": _references,
    "seed": _whole,
    "shard": check_shard,
    "sign": kinds.path,
    "since": kinds.either(Checkpoint, _moment),
    "sort": kinds.text,
    "sources": _imported,
    "space": kinds.text,
    "store": check_source,
    "subset": check_subset,
    "task": kinds.text,
    "target": kinds.text,
    "to": check_copy,
    "turn": _whole,
    "until": _moment,
    "sync.grace_days": _days(
        "1 keeps what was served within the last day; 0 keeps nothing for requests in flight."
    ),
    "upload.expected": kinds.text,
    "upload.location": kinds.text,
    "weighting": kinds.text,
    "where": kinds.texts,
    "workers": kinds.whole(1, "Give None for as many as there are processors.", most=_MOST_WORKERS),
}
