"""Conditions on metrics, as they are typed: `acc>0.8`, several joined by commas."""

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isnan
from typing import Any, Final

from share_registry.errors import InvalidInputError
from share_registry.values.tasks import Task

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION: Final = re.compile(
    r"\s*(?P<name>[^<>=!,]+?)\s*(?:(?P<operator>[<>=!]=|[<>=])\s*(?P<number>[^<>=!,]+?)\s*)?"
)
_PATTERN: Final = re.compile(r"[*?\[]")
_HINT: Final = "Write acc>0.8, or acc>0.8,loss<1, or acc alone for those that have it."
# What a listing says of a task beside its metrics, and what it may be sorted by
COLUMNS: Final[Mapping[str, Callable[[Task], float]]] = {
    "error": lambda task: task.error,
    "bytes": lambda task: task.bytes_added,
    "raw": lambda task: task.raw_bytes,
    "version": lambda task: task.version,
    "commit": lambda task: task.number,
    "time": lambda task: task.time.timestamp(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What a metric must be.

    Attributes:
        name: The metric.
        operator: How it compares with the number; None: that it is there is enough.
    """

    name: str
    operator: str | None = None
    number: float = 0.0

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Tell whether it holds of these metrics; of a metric that is not there nothing does."""
        if self.name not in metrics:
            return False
        return self.operator is None or _OPERATORS[self.operator](metrics[self.name], self.number)


def conditions_of(where: str | Iterable[str]) -> tuple[Condition, ...]:
    """Return conditions as they are typed. Raises InvalidInputError."""
    texts = [where] if isinstance(where, str) else where
    return tuple(_condition(part) for text in texts for part in text.split(","))


def numbers_of(task: Task) -> dict[str, float]:
    """Return the metrics of a task, and what else its listing says of it under free names."""
    return {**{name: column(task) for name, column in COLUMNS.items()}, **task.metrics}


def is_pattern(value: str) -> bool:
    """Tell whether the value of a label is a pattern (`*`, `?`, `[...]`)."""
    return _PATTERN.search(value) is not None


def have_labels(labels: Mapping[str, str], asked: Mapping[str, str]) -> bool:
    """Tell whether labels are as asked for: each the same, or as its pattern says."""
    return all(
        name in labels and (labels[name] == value or fnmatchcase(labels[name], value))
        for name, value in asked.items()
    )


def _condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise InvalidInputError(f"condition {text[:80]!r} is not METRIC>NUMBER.", hint=_HINT)
    if match["operator"] is None:
        return Condition(name=match["name"])
    return Condition(
        name=match["name"], operator=match["operator"], number=_number(text, match["number"])
    )


def _number(text: str, digits: str) -> float:
    is_percentage = digits.endswith("%")
    try:
        number = float(f"{digits.rstrip('% ')}e-2" if is_percentage else digits)
    except ValueError:
        number = float("nan")
    if isnan(number):
        raise InvalidInputError(
            f"condition {text[:80]!r} compares with {digits[:80]!r}, which is no number.",
            hint=_HINT,
        )
    return number
