"""What a caller says about a commit, and what must hold before it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import float_info
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.errors import ConflictError, InvalidInputError, RefusedError
from share_registry.exchange.environment import environment_labels
from share_registry.names import SpaceName, TaskName, Version
from share_registry.outside.files import Outside
from share_registry.registry.arguments import check_distinct
from share_registry.values.policy import ENERGY, UNIT, check_budget
from share_registry.values.task_version import TaskVersion

# Characters of a value that an error repeats
_SHOWN: Final = 80


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
class RefitOptions:
    """What a refit is asked for; see `Registry.refit`."""

    max_rank: int | None = None
    energy: float | None = None
    weighting: str = UNIT
    budget: float | None = None
    allow_loss: bool = False
    message: str = ""
    author: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.weighting not in (UNIT, ENERGY):
            raise InvalidInputError(
                f"weighting {self.weighting!r} is not 'unit' or 'energy'.",
                hint="unit counts every task alike, energy by the square of its norm.",
            )
        if self.energy is not None and not (
            isinstance(self.energy, int | float) and 0 < self.energy <= 1
        ):
            raise InvalidInputError(
                f"energy {self.energy!r} is not a share above 0 and at most 1.",
                hint="0.6 captures 60 % of the energy.",
            )
        if self.max_rank is not None and self.max_rank < 1:
            raise InvalidInputError(
                f"max_rank {self.max_rank} is not at least 1.",
                hint="Leave it out to keep as many directions as pay.",
            )
        if self.budget is not None:
            check_budget(self.budget)
        if self.budget is not None and self.allow_loss:
            raise InvalidInputError(
                "allow_loss is given beside a budget.",
                hint="A budget limits what re-expressing may lose, allow_loss=True lifts every "
                "limit: give one of them.",
            )

    @property
    def reexpresses(self) -> bool:
        """Whether stored tasks are re-expressed."""
        return self.allow_loss or self.budget is not None


def check_options(options: CommitOptions, outside: Outside) -> dict[str, str]:
    """Check what a caller says of a commit; return its labels with those of the environment.

    Raises InvalidInputError.
    """
    check_labels(options.labels)
    check_metrics(options.metrics)
    check_texts(options)
    labels = environment_labels(outside) | dict(options.labels)
    check_distinct(labels, options.metrics)
    return labels


def check_texts(options: CommitOptions | RefitOptions) -> None:
    """Check that author and message fit into a note. Raises InvalidInputError."""
    if options.author is not None and len(options.author) > 256:
        raise InvalidInputError("author has more than 256 characters.", hint="Shorten it.")
    if len(options.message) > 16_384:
        raise InvalidInputError(
            "message has more than 16384 characters.",
            hint="Shorten it, or keep the text in a file of the adapter's directory.",
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Check label names and values. Raises InvalidInputError."""
    for name, value in labels.items():
        are_texts = isinstance(name, str) and isinstance(value, str)
        if not are_texts or not 1 <= len(name) <= 128 or len(value) > 4096:
            raise InvalidInputError(
                f"label {_short(name)}={_short(value)} is not a short name and a text.",
                hint="Names have at most 128 characters, values 4096.",
            )


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Check metric names and values. Raises InvalidInputError."""
    for name, value in metrics.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        # neither infinite, nor NaN, nor a whole number past float64
        is_finite = is_number and abs(value) <= float_info.max
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or not is_finite:
            raise InvalidInputError(
                f"metric {_short(name)}={_short(value)} is not a short name and a finite number.",
                hint="Names have at most 128 characters.",
            )


def next_version(
    session: Session,
    space: SpaceName,
    task: TaskName,
    latest: TaskVersion | None,
    *,
    expected: int | None,
) -> Version:
    """Return the version that follows the latest one of a task.

    Raises:
        RefusedError: the task has got another name meanwhile.
        ConflictError: it is not at version `expected`; 0 for absent.
    """
    check_name(session, space, task)
    present = latest.version if latest is not None else 0
    check_expected(task, present, expected)
    return Version(present + 1)


def check_name(session: Session, space: SpaceName, task: TaskName) -> None:
    """Check that a task has not got another name meanwhile. Raises RefusedError."""
    name = lookups.current_name(session, space, task)
    if name is not None and name != task:
        raise RefusedError(
            f"task {space}/{task} was renamed to {name!r}; a name is never given to another task.",
            hint=f"Commit to {name!r}, or pick a new name.",
        )


def check_expected(task: str, latest: int, expected: int | None) -> None:
    """Check that a task is at the version that was expected; 0 for absent. Raises ConflictError."""
    if expected is not None and expected != latest:
        present = f"at v{latest}" if latest else "absent"
        raise ConflictError(
            f"task {task!r} is {present}, expected {f'v{expected}' if expected else 'absent'}.",
            hint="Look at what came in between (`log`), then commit upon it.",
        )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."
