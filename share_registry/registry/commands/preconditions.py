"""What a caller says about a commit, and what must hold before it is made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.errors import Conflict, InvalidInput, Refused
from share_registry.names import SpaceName, TaskName

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_SHOWN: Final = 80
"""Characters of what an error repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
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


def check_options(options: Options) -> None:
    """Check what a caller says. Raises InvalidInput."""
    check_labels(options.labels)
    check_metrics(options.metrics)
    if options.author is not None and len(options.author) > 256:
        raise InvalidInput("author has more than 256 characters.", hint="Shorten it.")
    if len(options.message) > 16_384:
        raise InvalidInput(
            "message has more than 16384 characters.",
            hint="Shorten it, or keep the text in a file of the adapter's directory.",
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Check label names and values. Raises InvalidInput."""
    for name, value in labels.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, str)
            or not 1 <= len(name) <= 128
            or len(value) > 4096
        ):
            raise InvalidInput(
                f"label {_short(name)}={_short(value)} is not a short name and a text.",
                hint="Names have at most 128 characters, values 4096.",
            )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number past float64
        return False


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Check metric names and values. Raises InvalidInput."""
    for name, value in metrics.items():
        number = (
            isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        )
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or not number:
            raise InvalidInput(
                f"metric {_short(name)}={_short(value)} is not a short name and a finite number.",
                hint="Names have at most 128 characters.",
            )


def check_name(session: "Session", space: SpaceName, task: TaskName) -> None:
    """Check that a task has not got another name meanwhile. Raises Refused."""
    now = lookups.current_name(session, space, task)
    if now is not None and now != task:
        raise Refused(
            f"task {space}/{task} was renamed to {now!r}; a name is never given to another task.",
            hint=f"Commit to {now!r}, or pick a new name.",
        )


def check_expected(task: str, latest: int, expected: int | None) -> None:
    """Check that a task is at the version that was expected; 0 for absent. Raises Conflict."""
    if expected is not None and expected != latest:
        found = f"at v{latest}" if latest else "absent"
        wanted = f"v{expected}" if expected else "absent"
        raise Conflict(
            f"task {task!r} is {found}, expected {wanted}.",
            hint="Look at what came in between (`log`), then commit upon it.",
        )
