"""Types of options: budgets, labels, metrics, expected versions."""

import re
from collections.abc import Iterable
from typing import Final

import click

from share_registry.errors import InvalidInputError

_PERCENT: Final = re.compile(r"(?P<number>\d+(\.\d*)?|\.\d+)\s*%")


def budget_of(text: str) -> float:
    """Return the relative error in `0.025` or `2.5%`.

    A percentage is read as decimal digits: 2.5% is 0.025 to the last bit.
    """
    percent = _PERCENT.fullmatch(str(text).strip())
    try:
        return float(f"{percent['number']}e-2" if percent else text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is not a relative error: write 0.025 or 2.5%."
        ) from error


def labels_of(
    pairs: Iterable[str], *, hint: str = "Give one option per label or metric: --label team=search."
) -> dict[str, str]:
    """Return `name=value` pairs as a dict. Raises InvalidInputError."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or name in found:
            raise InvalidInputError(
                f"{pair!r} is not NAME=VALUE with a name of its own.", hint=hint
            )
        found[name] = value
    return found


def metrics_of(pairs: Iterable[str]) -> dict[str, float]:
    """Return `name=number` pairs as a dict. Raises InvalidInputError."""
    return {name: _number(name, value) for name, value in labels_of(pairs).items()}


def expected_of(text: str | None) -> int | None:
    """Return the task version in `3`, `v3` or `absent`. Raises InvalidInputError."""
    if text is None:
        return None
    if text == "absent":
        from share_registry import ABSENT

        return ABSENT
    digits = text.removeprefix("v")
    if not digits.isdecimal() or not digits.isascii():
        raise InvalidInputError(
            f"expected version {text!r} is not a task version.",
            hint="Give a number like 3 or v3, or 'absent'.",
        )
    return int(digits)


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"metric {name}={text!r} is not a number.", hint="Use --label for text."
        ) from error


def commit_of(text: str | None) -> int | str | None:
    """Return the number in `12` or `c12`, or a reference as it is."""
    number = re.fullmatch(r"c?(\d{1,15})", text or "")
    return int(number[1]) if number else text


def label_option(function: "click.decorators.FC") -> "click.decorators.FC":
    """Add `--label`, repeatable."""
    return click.option(
        "--label", "labels", multiple=True, metavar="NAME=VALUE", help="Label; may be repeated."
    )(function)


def metric_option(function: "click.decorators.FC") -> "click.decorators.FC":
    """Add `--metric`, repeatable."""
    return click.option(
        "--metric", "metrics", multiple=True, metavar="NAME=NUMBER", help="Metric; may be repeated."
    )(function)
