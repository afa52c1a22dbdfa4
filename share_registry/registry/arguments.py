"""What the public methods check of their arguments.

The wrong kind of value is InvalidInputError, never an error of Python's own. One table says by the
name of a parameter what it must be; `guarded` puts it before every public method of the facade.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from functools import cache, wraps
from inspect import Parameter, isfunction, signature
from numbers import Real
from typing import Any, Final, TypeVar

from share_registry.catalog.sql import MOST
from share_registry.errors import InvalidInputError, ensure
from share_registry.values.commits import Commit
from share_registry.values.policy import ENERGY, UNIT, Policy, check_budget
from share_registry.values.references import ResolvedReference
from share_registry.values.tasks import Task

_T = TypeVar("_T")

FilePath = str | os.PathLike[str]
# A reference as it may be given: typed, or what an earlier call returned
Ref = str | Commit | ResolvedReference
# Called with what is being done, how many are done and how many there are
Progress = Callable[[str, int, int], None]
# Takes a parameter's name and value, returns the value to use, raises InvalidInputError
_Check = Callable[[str, Any], Any]
# Half characters, in which Python keeps bytes that are no UTF-8; in a path they may stand for such
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")
_NO_PATH: Final = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
_LONGEST_AUTHOR: Final = 256
# Parameters that may be paths, whose names need be no text
_PATHS: Final = ("adapter", "adapters", "root")


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
                f"energy {self.energy!r} is not a share above 0 and at most 1.",
                hint="0.6 captures 60 % of the energy.",
            ),
        )
        ensure(
            self.max_rank is None or self.max_rank >= 1,
            InvalidInputError(
                f"max_rank {self.max_rank} is not at least 1.",
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
    """Check the arguments of a class's public methods by the table; None passes as a default."""
    for name, method in list(vars(facade).items()):
        if isfunction(method) and not name.startswith("_"):
            setattr(facade, name, _guarded(method))
    return facade


def reference(ref: Ref) -> str:
    """Return a reference as text. Raises InvalidInputError."""
    if isinstance(ref, Commit | ResolvedReference):
        return ref.ref
    if not isinstance(ref, str):
        raise _wrong(
            "ref",
            ref,
            "a reference",
            "Give a text such as cola@v3, or a Commit or ResolvedReference that a call returned.",
        )
    return ref


def references(refs: Ref | Iterable[Ref]) -> tuple[str, ...]:
    """Return references as texts; a single one may stand alone. Raises InvalidInputError."""
    if isinstance(refs, str | Commit | ResolvedReference):
        return (reference(refs),)
    if not isinstance(refs, Iterable) or isinstance(refs, bytes):
        raise _wrong(
            "derived_from", refs, "references", "Give a list of references such as cola@v1."
        )
    return tuple(reference(ref) for ref in refs)


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
    _path(name, value)
    _check_path(name, value)
    if not os.fspath(value):
        raise _wrong(name, value, "a directory or URL", "Name one; '.' is this directory.")
    _check_unicode(name, os.fspath(value))


def check_author(name: str, value: Any) -> Any:
    """Check that a text names an author as a note can hold it. Raises InvalidInputError."""
    _check_unicode(name, value)
    if len(_text(name, value)) > _LONGEST_AUTHOR:
        raise _wrong(name, value, f"at most {_LONGEST_AUTHOR} characters", "Shorten it.")
    return value


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    bound_signature = cache(lambda: signature(method))

    @wraps(method)
    def checked(*arguments: Any, **keywords: Any) -> Any:
        bound = bound_signature().bind(*arguments, **keywords)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _check(bound_signature().parameters[name], value)
        return method(*bound.args, **bound.kwargs)

    return checked


def _check(parameter: Parameter, value: Any) -> Any:
    name = parameter.name
    if name in _PATHS:
        _check_path(name, value)
    else:
        _check_unicode(name, value)
    if name not in _CHECKS or (value is None and parameter.default is None):
        return value
    return _CHECKS[name](name, value)


def _check_unicode(name: str, value: Any) -> None:
    """Check that texts can be written as UTF-8.

    Python stands for bytes of the command line that cannot by half characters. Raises
    InvalidInputError.
    """
    texts = [value, *value.values(), *value] if isinstance(value, Mapping) else [value]
    for text in texts:
        if isinstance(text, str) and _NO_TEXT.search(text):
            raise _wrong(
                name,
                text,
                "text in UTF-8",
                "Check the encoding of the terminal or of the file that it comes from.",
            )


def _check_path(name: str, value: Any) -> None:
    for path in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(path, str | os.PathLike) and not _is_path(path):
            raise _wrong(name, path, "a path", "A path has no NUL and no half character.")


def _is_path(path: str | os.PathLike[Any]) -> bool:
    plain = os.fspath(path)
    if isinstance(plain, bytes):
        plain = plain.decode(errors="surrogateescape")
    return not _NO_PATH.search(plain)


def _of(types: Any, expected: str, hint: str) -> _Check:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, types):
            raise _wrong(name, value, expected, hint)
        return value

    return check


def _whole(least: int, hint: str, *, most: int | None = None, or_types: Any = ()) -> _Check:
    """Return the check that a value is None, a whole number in a range, or of another type."""
    expected = f"a whole number from {least}{'' if most is None else f' to {most}'}"

    def check(name: str, value: Any) -> Any:
        if value is None or isinstance(value, or_types):
            return value
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or value < least or (most is not None and value > most):
            raise _wrong(name, value, expected, hint)
        return value

    return check


def _texts(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise _wrong(name, value, "texts", "Give a list of str.")
    return [_text(name, item) for item in value]


def _labels(name: str, value: Any) -> dict[str, str]:
    """Return labels; a plain number among them becomes its text."""
    labels = {}
    for label, text in _mapping(name, value).items():
        scalar = _scalar(text)
        is_number = isinstance(scalar, int | float) and not isinstance(scalar, bool)
        labels[_text(f"a name in {name}", label)] = _text(
            f"{name}[{label!r}]"[:80], str(scalar) if is_number else scalar
        )
    return labels


def _metrics(name: str, value: Any) -> dict[str, float]:
    """Return metrics as numbers of Python; a tensor or an array of no dimension is one."""
    metrics = {}
    for metric, number in _mapping(name, value).items():
        scalar = _scalar(number)
        if not isinstance(scalar, Real | Decimal) or isinstance(scalar, bool):
            raise _wrong(
                f"{name}[{metric!r}]"[:80],
                number,
                "one number",
                "Give a number: of an array or tensor of one value its .item(), text as a label.",
            )
        metrics[_text(f"a name in {name}", metric)] = (
            scalar if isinstance(scalar, int) else float(scalar)
        )
    return metrics


def _scalar(value: Any) -> Any:
    """Return the number in an array or tensor of no dimension, or the value itself."""
    if getattr(value, "shape", None) != () or not callable(getattr(value, "item", None)):
        return value
    try:
        return value.item()
    # whatever an array of somebody's own raises: it holds no number then
    except Exception:  # noqa: BLE001
        return value


def _wrong(name: str, value: Any, expected: str, hint: str) -> InvalidInputError:
    return InvalidInputError(
        f"{name} is {repr(value)[:80]} ({type(value).__name__}), expected {expected}.", hint=hint
    )


_text: Final = _of(str, "a text", "Give a str.")
_path: Final = _of(str | os.PathLike, "a directory", "Give a path.")
_mapping: Final = _of(Mapping, "a mapping", "Give names with their values, as a dict.")
_number: Final = _whole(0, "Give an int.")
_moment: Final = _of(
    str | date, "a date or time", "Give a datetime, or write 2026-11-16 or 2026-11-16T12:00Z."
)
# What a parameter of this name must be
_CHECKS: Final[Mapping[str, _Check]] = {
    "adapters": _mapping,
    "after": _of(str | Task, "a text", "Give a str."),
    "alias": _text,
    "at": _whole(1, "Give a commit, a tag, a date or a time.", or_types=str | date),
    "author": check_author,
    "base_labels": _texts,
    "base_model": _text,
    "base_revision": _text,
    "budget": lambda _, value: check_budget(value),
    "before": _whole(1, "Give the number of a commit, or a reference such as c12.", or_types=Ref),
    "expected": _whole(0, "Give an int (`expected=ABSENT`: there must be none)."),
    "kind": _text,
    "labels": _labels,
    "level": _text,
    "limit": _whole(1, "Give None for all.", most=MOST),
    "max_rank": _number,
    "message": _text,
    "method": _text,
    "metric": _text,
    "metrics": _metrics,
    "name": _text,
    "new": _text,
    "parents": _mapping,
    "policy": _of(Policy, "a Policy", "Give share_registry.Policy(budget=..., ...)."),
    "profile": _text,
    "reason": _text,
    "remove": _texts,
    "root": _path,
    "seed": _number,
    "since": _moment,
    "space": _text,
    "sort": _text,
    "task": _text,
    "until": _moment,
    "weighting": _text,
    "where": _texts,
}
