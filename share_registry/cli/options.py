"""Types of options, and options that several verbs have."""

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


def expected_of(text: str) -> int:
    """Return the task version in `3`, `v3` or `absent`. Raises InvalidInputError."""
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


def commit_of(text: str) -> int | str:
    """Return the number in `12` or `c12`, or a reference as it is."""
    number = re.fullmatch(r"c?(\d{1,15})", text)
    return int(number[1]) if number else text


def named_of(pairs: Iterable[str], *, hint: str) -> dict[str, str]:
    """Return `name=value` pairs as a dict. Raises InvalidInputError."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name or name in values:
            raise InvalidInputError(
                f"{pair!r} is not NAME=VALUE with a name of its own.", hint=hint
            )
        values[name] = value
    return values


def _labels(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    return named_of(pairs, hint="Give one option per label or metric: --label team=search.")


def _metrics(
    context: click.Context, option: click.Parameter, pairs: tuple[str, ...]
) -> dict[str, float]:
    return {name: _number(name, value) for name, value in _labels(context, option, pairs).items()}


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InvalidInputError(
            f"metric {name}={text!r} is not a number.", hint="Use --label for text."
        ) from error


label_option: Final = click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="NAME=VALUE",
    help="Label; may be repeated.",
)
metric_option: Final = click.option(
    "--metric",
    "metrics",
    multiple=True,
    callback=_metrics,
    metavar="NAME=NUMBER",
    help="Metric; may be repeated.",
)
message_option: Final = click.option(
    "-m", "--message", default="", metavar="TEXT", help="What this commit is, for the log."
)
author_option: Final = click.option("--author", metavar="NAME", help="Who commits; self-declared.")
reason_option: Final = click.option(
    "--reason", default="", metavar="TEXT", help="Why, for the log."
)
key_option: Final = click.option(
    "--idempotency-key", metavar="KEY", help="Running again with the same key never commits twice."
)
dry_run_option: Final = click.option(
    "--dry-run", is_flag=True, help="Measure and report; commit nothing."
)
expected_option: Final = click.option(
    "--expected",
    type=expected_of,
    metavar="VERSION",
    help="Version that must be the task's latest, or 'absent'; otherwise exit code 4.",
)
