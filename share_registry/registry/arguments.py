"""What the public methods check of their arguments.

The wrong kind of value is InvalidInputError, never an error of Python's own.

One table says by the name of a parameter what it must be; `guarded` puts it before every public
method of the facade.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from functools import cache, wraps
from inspect import Parameter, isfunction, signature
from typing import Any, Final, TypeVar, cast

from share_registry.catalog.sql import MOST
from share_registry.errors import InvalidInputError
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy
from share_registry.values.references import ResolvedReference
from share_registry.values.tasks import Task

_T = TypeVar("_T")

FilePath = str | os.PathLike[str]
Ref = str | Commit | ResolvedReference
"""A reference as it may be given: typed, or what an earlier call returned."""
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done and how many there are."""
_PLACES: Final = ("adapter", "adapters", "root")
"""Parameters that may be paths, whose names need be no text."""


def ignore_progress(doing: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def guarded(facade: type[_T]) -> type[_T]:
    """Check the arguments of a class's public methods by `DOORS`.

    None passes where it is the default.
    """
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
            "Give a text such as cola@v3, or a Commit or Resolved that a call returned.",
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
    """Check that no label of a version is called as a metric of it. Raises InvalidInputError."""
    both = sorted({*labels} & {*metrics})
    if both:
        raise InvalidInputError(
            f"{', '.join(map(repr, both))} would be a label and a metric of one version.",
            hint="Give one of them another name.",
        )


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    known = cache(lambda: signature(method))

    @wraps(method)
    def checked(*arguments: Any, **named: Any) -> Any:
        bound = known().bind(*arguments, **named)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _checked(known().parameters[name], value)
        return method(*bound.args, **bound.kwargs)

    return checked


def _checked(parameter: Parameter, value: Any) -> Any:
    (check_path if parameter.name in _PLACES else check_unicode)(parameter.name, value)
    door = DOORS.get(parameter.name)
    if door is None or (value is None and parameter.default is None):
        return value
    return door(parameter.name, value)


def check_unicode(name: str, value: Any) -> None:
    """Check that texts can be written as UTF-8.

    Python stands for bytes of the command line that cannot by half characters. Raises
    InvalidInputError.
    """
    texts = [value, *value.values(), *value] if isinstance(value, Mapping) else [value]
    odd = next((text for text in texts if isinstance(text, str) and not _is_unicode(text)), None)
    if odd is not None:
        raise _wrong(
            name,
            odd,
            "text in UTF-8",
            "Check the encoding of the terminal or of the file that it comes from.",
        )


def check_place(name: str, value: Any) -> None:
    """Check that a place of a registry can be named in its catalog's URL. Raises InvalidInputError."""
    _place(name, value)
    check_path(name, value)
    check_unicode(name, os.fspath(value))


def check_path(name: str, value: Any) -> None:
    """Check that what may be a path is one that a system can have. Raises InvalidInputError."""
    for path in value.values() if isinstance(value, Mapping) else [value]:
        if isinstance(path, str | os.PathLike) and not _is_path(path):
            raise _wrong(name, path, "a path", "A path has no NUL and no half character.")


def _is_path(path: str | os.PathLike[Any]) -> bool:
    plain = os.fspath(path)
    try:
        return b"\0" not in (
            plain if isinstance(plain, bytes) else plain.encode(errors="surrogateescape")
        )
    except UnicodeEncodeError:
        return False


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a text", "Give a str.")
    return value


def _author(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


def _texts(name: str, value: Any) -> list[str]:
    """Return a list of texts; a single one may stand alone."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise _wrong(name, value, "texts", "Give a list of str.")
    return [_text(name, item) for item in value]


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(name, value, "a mapping", "Give names with their values, as a dict.")
    return value


def _number(name: str, value: Any) -> int | None:
    return _whole(
        name,
        value,
        0,
        "Give an int (`expected=ABSENT`: there must be none)."
        if name == "expected"
        else "Give an int.",
    )


def _limit(name: str, value: Any) -> int | None:
    return _whole(name, value, 1, "Give None for all.", most=MOST)


def _whole(name: str, value: Any, least: int, hint: str, most: int | None = None) -> int | None:
    if value is not None and (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < least
        or (most is not None and value > most)
    ):
        raise _wrong(
            name, value, f"a whole number from {least}{'' if most is None else f' to {most}'}", hint
        )
    return value


def _commit(name: str, value: Any) -> int | Ref | None:
    return (
        value
        if isinstance(value, str | Commit | ResolvedReference)
        else _whole(name, value, 1, "Give the number of a commit, or a reference such as c12.")
    )


def _at(name: str, value: Any) -> int | str | date | None:
    return (
        value
        if isinstance(value, str | date)
        else _whole(name, value, 1, "Give a commit, a tag, a date or a time.")
    )


def _labels(name: str, value: Any) -> Mapping[str, str]:
    for label, text in _mapping(name, value).items():
        _text(f"a name in {name}", label)
        _text(f"{name}[{label!r}]"[:80], text)
    return cast("Mapping[str, str]", value)


def _moment(name: str, value: Any) -> str | date | None:
    if value is not None and not isinstance(value, str | date):
        raise _wrong(
            name,
            value,
            "a date or time",
            "Give a datetime, or write 2026-11-16 or 2026-11-16T12:00Z.",
        )
    return value


def _task(name: str, value: Any) -> str | Task | None:
    return value if isinstance(value, Task) else _author(name, value)


def _place(name: str, value: Any) -> str | os.PathLike[str]:
    if not isinstance(value, str | os.PathLike):
        raise _wrong(name, value, "a directory", "Give a path.")
    return value


def _policy(name: str, value: Any) -> Policy:
    if not isinstance(value, Policy):
        raise _wrong(name, value, "a Policy", "Give share_registry.Policy(budget=..., ...).")
    return value


def _wrong(name: str, value: Any, wanted: str, hint: str) -> InvalidInputError:
    return InvalidInputError(
        f"{name} is {repr(value)[:80]} ({type(value).__name__}), expected {wanted}.", hint=hint
    )


DOORS: Final[Mapping[str, Callable[[str, Any], Any]]] = (
    dict.fromkeys(
        (
            "message",
            "reason",
            "space",
            "name",
            "new",
            "task",
            "alias",
            "kind",
            "base_model",
            "base_revision",
            "profile",
            "level",
            "method",
            "weighting",
            "metric",
        ),
        _text,
    )
    | dict.fromkeys(("metrics", "adapters", "parents"), _mapping)
    | dict.fromkeys(("remove", "base_labels"), _texts)
    | dict.fromkeys(("expected", "max_rank", "seed"), _number)
    | dict.fromkeys(("since", "until"), _moment)
    | {
        "author": _author,
        "root": _place,
        "policy": _policy,
        "before": _commit,
        "after": _task,
        "limit": _limit,
        "at": _at,
        "labels": _labels,
    }
)
"""What a parameter of this name must be."""
