"""What kind of value an argument is.

Public calls check that before they use it: the wrong kind is InvalidInputError that says which
argument it is, what was found and what was expected, never an error of Python's own.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, wraps
from inspect import Parameter, signature
from typing import Any, Final, ParamSpec, TypeVar

from share_registry.errors import InvalidInputError

_P = ParamSpec("_P")
_T = TypeVar("_T")

FilePath = str | os.PathLike[str]
# Takes a parameter's name and value, returns the value to use, raises InvalidInputError
Check = Callable[[str, Any], Any]
# The largest whole number that the format keeps: a float of 64 bits holds all up to it
LARGEST: Final = (1 << 53) - 1
_MOST_SHOWN: Final = 80
# Half characters, in which Python keeps bytes that are no UTF-8; in a path they may stand for such
_NO_TEXT: Final = re.compile("[\ud800-\udfff]")
_NO_PATH: Final = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def takes(**checks: Check) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Check the arguments of a function at every call; None passes where it is the default."""

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        # of the function as it is called: annotations are not looked at
        signature_of = cache(lambda: signature(function))

        @wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            try:
                bound = signature_of().bind(*args, **kwargs)
            except TypeError as error:
                # as Python says it of a function that nothing is wrapped around
                raise TypeError(f"{function.__qualname__}() {error}") from None
            parameters = signature_of().parameters
            for name in bound.arguments.keys() & checks.keys():
                value = bound.arguments[name]
                if not _is_default(parameters[name], value):
                    bound.arguments[name] = checks[name](name, value)
            return function(*bound.args, **bound.kwargs)

        return checked

    return decorate


def shown(value: object) -> str:
    """Return the beginning of what represents a value, whatever it is."""
    try:
        text = repr(value)
    # it is somebody's own, or a number with more digits than Python writes
    except Exception:  # noqa: BLE001
        text = object.__repr__(value)
    return text[:_MOST_SHOWN]


def wrong_kind(name: str, value: object, expected: str, hint: str) -> InvalidInputError:
    """Return the error that says which argument is not what it must be."""
    return InvalidInputError(
        f"{name} is {shown(value)} ({type(value).__name__}), expected {expected}.", hint=hint
    )


def member_of(value: object, name: str) -> Any:
    """Return a member of an object of any kind, None where asking for it fails."""
    try:
        return getattr(value, name, None)
    # such as torch's name spaces and other people's proxies, whose members are made when asked for
    except Exception:  # noqa: BLE001
        return None


def of(types: Any, expected: str, hint: str) -> Check:
    """Return the check that a value is of a type."""

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, types):
            raise wrong_kind(name, value, expected, hint)
        return value

    return check


def either(types: Any, check: Check) -> Check:
    """Return the check that a value is of a type, or passes another check."""
    return lambda name, value: value if isinstance(value, types) else check(name, value)


def whole(least: int, hint: str, *, most: int = LARGEST) -> Check:
    """Return the check that a value is a whole number in a range."""

    def check(name: str, value: Any) -> int:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or not least <= value <= most:
            until = f" to {most}" if most < LARGEST or (is_whole and value > most) else ""
            raise wrong_kind(name, value, f"a whole number from {least}{until}", hint)
        return int(value)

    return check


def text(name: str, value: Any) -> str:
    """Check that a value is text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise wrong_kind(name, value, "a text", "Give a str.")
    if _NO_TEXT.search(value):
        hint = "Check the encoding of the terminal or of the file that it comes from."
        raise wrong_kind(name, value, "text in UTF-8", hint)
    return value


def path(name: str, value: Any) -> Any:
    """Check that a value is a path that a file can have; its letters need be no text."""
    plain = _plain_path(value)
    if not isinstance(plain, str):
        raise wrong_kind(name, value, "a path", "Give a path.")
    if not plain:
        raise wrong_kind(name, value, "a path", "Name one; '.' is this directory.")
    if _NO_PATH.search(plain):
        raise wrong_kind(name, value, "a path", "A path has no NUL and no half character.")
    return value


def several(item: Check, expected: str, hint: str) -> Check:
    """Return the check that a value is iterable, and each of what it yields passes a check.

    A text is not taken for its letters. The check returns a list.
    """

    def check(name: str, value: Any) -> list[Any]:
        if isinstance(value, str | bytes | bytearray):
            raise wrong_kind(name, value, expected, hint)
        try:
            iterator = iter(value)
        except TypeError as error:
            raise wrong_kind(name, value, expected, hint) from error
        return [item(name, each) for each in iterator]

    return check


def iterable(name: str, value: Any) -> Iterator[Any]:
    """Return what iterates over a value, which is not read ahead. Raises InvalidInputError."""
    try:
        return iter(value)
    except TypeError as error:
        raise wrong_kind(name, value, "several values", "Give a list.") from error


def texts(name: str, value: Any) -> list[str]:
    """Return texts; a single one may stand alone."""
    return [text(name, value)] if isinstance(value, str) else _texts(name, value)


_texts: Final = several(text, "texts", "Give a list of str.")
flag: Final = of(bool, "True or False", "Give a bool.")
mapping: Final = of(Mapping, "a mapping", "Give names with their values, as a dict.")


def progress(name: str, value: Any) -> Any:
    """Check that a value can be called with what is done now, how many are, and of how many."""
    try:
        signature(value).bind("objects", 1, 2)
    # some of what is built in has no signature
    except ValueError:
        pass
    except TypeError as error:
        hint = "Give f(step: str, done: int, total: int), or leave it out."
        raise wrong_kind(name, value, "a function of three arguments", hint) from error
    return value


def _is_default(parameter: Parameter, value: object) -> bool:
    return value is None and parameter.default is None


def _plain_path(value: Any) -> Any:
    """Return a path as a text, None for what is no path of texts."""
    if not isinstance(value, str | os.PathLike):
        return None
    try:
        return os.fspath(value)
    except TypeError:
        return None
