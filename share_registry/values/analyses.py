"""What `retention`, `analyze` and `similar` return.

Frozen, printable, plottable values free of database and tensor types.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = str | os.PathLike[str] | None
"""Where a plot is saved, by the ending of its name; None: nowhere."""


def _text(value: object) -> str:
    from share_registry.values import analysis_sheets, render

    return render.text(analysis_sheets.sheet(value))


def _html(value: object) -> str:
    from share_registry.values import analysis_sheets, render

    return render.html(analysis_sheets.sheet(value))


def _line(value: object) -> str:
    from share_registry.values import analysis_sheets

    return f"<{type(value).__name__} {analysis_sheets.sheet(value).title}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionCommit:
    """One column: a commit that changed what some task is."""

    number: CommitNumber
    id: Digest
    kind: str
    time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionCell:
    """What a task was at a commit.

    Attributes:
        error: As recorded, against the adapter that was handed in.
        bound: Whether the error is an upper bound, because that adapter is no longer in the store.
        made: Whether this very commit made the version.
        metric: The metric asked for, as it is recorded now; None where there is none.
    """

    ref: str
    version: Version
    error: float
    bound: bool
    made: bool
    metric: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionRow:
    """One task over time.

    Attributes:
        cells: By column; None before the task was there and after it was dropped.
        first: Error when the adapter that the task stands for now was handed in.
        last: Error now, or when it was dropped.
        worst: The largest error of all cells.
        transfer: last - first: what later commits did to the task. Above 0 it was forgotten in
            part; by default it is 0, as no version changes.
        metric_transfer: Last recorded metric less the first; None where there are not two versions
            with one.
    """

    task: TaskName
    cells: tuple[RetentionCell | None, ...]
    first: float
    last: float
    worst: float
    transfer: float
    metric_transfer: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The forgetting matrix: how well each task is kept, commit by commit.

    Attributes:
        metric: The metric that the cells have beside the error.
        mean: Mean over tasks of the error now.
        worst: Largest error of any task at any commit.
        transfer: Mean over tasks of the last error less the first (backward transfer, as an error).
        metric_transfer: The same of the metric, over the tasks that have one twice.
    """

    space: SpaceName
    metric: str | None
    commits: tuple[RetentionCommit, ...]
    rows: tuple[RetentionRow, ...]
    mean: float
    worst: float
    transfer: float
    metric_transfer: float | None

    __str__ = _text
    __repr__ = _line
    _repr_html_ = _html

    def plot(self, path: Place = None) -> "Figure":
        """Draw tasks against commits as a heat map; save it where a path is given.

        Raises RefusedError without matplotlib.
        """
        from share_registry.values.plots import plot_retention

        return plot_retention(self, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysedAdapter:
    """One adapter of an analysis: its largest rank, and parameters and bytes of its factors."""

    name: str
    modules: int
    rank: int
    parameters: int
    raw_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """One module and side: how the energy of all adapters' rows spreads over directions.

    Every adapter counts the same in every module.

    Attributes:
        width: m.
        rows: Rows of all adapters together.
        explained: (k, share of the energy in the first k directions) at some k, the last included.
        effective_rank: exp of the entropy of the energies.
        k50: Fewest directions that hold 50 % of the energy; k80, k90 and k99 alike.
        alone90: Fewest directions that hold 90 % of the energy of one adapter alone, the mean over
            the adapters.
    """

    module: str
    side: str
    width: int
    rows: int
    adapters: int
    explained: tuple[tuple[int, float], ...]
    effective_rank: float
    k50: int
    k80: int
    k90: int
    k99: int
    alone90: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinship:
    """Adapters that belong together.

    Attributes:
        kind: "one start": equal random A, so A is shared and B is not; "shared directions": both
            sides are.
        overlap_a: Mean cosine of the principal angles between the row spaces of A; overlap_b alike.
        chance: What random rows of these ranks have.
    """

    kind: str
    adapters: tuple[str, ...]
    overlap_a: float
    overlap_b: float
    chance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveOneOut:
    """How much of an adapter is lost in the basis of the others, relative to |dW|.

    Both sides, A alone, B alone; and in random bases of the same sizes.
    """

    adapter: str
    error: float
    error_a: float
    error_b: float
    chance: float
    chance_a: float
    chance_b: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Continued:
    """An adapter close to an earlier one: |dW - dW of `previous`| / |dW|."""

    adapter: str
    previous: str
    distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Estimated bytes of all factors at one budget, without headers, layouts and passengers.

    Attributes:
        alone: Every adapter for itself.
        references: One after another, each against the earlier ones where that is cheaper.
        joint: With a basis fitted to all of them, its bytes included.
        bits_alone: Bits per parameter; bits_references and bits_joint alike.
        bits_bound: What independent Gaussian rows need without sharing, by reverse water-filling;
            from about 20 % on it is too high, as it counts a row that is dropped on both sides
            twice.
    """

    budget: float
    alone: int
    references: int
    joint: int
    bits_alone: float
    bits_references: float
    bits_joint: float
    bits_bound: float

    @property
    def saving(self) -> float:
        """The share of the bytes that the better way of sharing saves."""
        return 1.0 - min(self.references, self.joint) / self.alone if self.alone else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """One sentence of a verdict.

    `kind` is "one adapter", "same", "continued", "one start", "shared directions", "saving" or
    "precision".
    """

    kind: str
    text: str
    adapters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What adapters have in common, and whether sharing pays for them.

    Attributes:
        verdict: The statements as one text.
        break_even: N* = k / r: a basis of k directions for all and coefficients (the paper's form,
            in full precision) are smaller than r directions for each from more than N* adapters on;
            k and r hold 90 % of the energy of all and of each. Where nothing is shared it is near
            the number of adapters and grows with it.
        notes: What was sampled, left out or is worth knowing.
    """

    adapters: tuple[AnalysedAdapter, ...]
    verdict: str
    statements: tuple[Statement, ...]
    forecasts: tuple[Forecast, ...]
    kinships: tuple[Kinship, ...]
    continued: tuple[Continued, ...]
    leave_one_out: tuple[LeaveOneOut, ...]
    spectra: tuple[Spectrum, ...]
    break_even: float
    notes: tuple[str, ...] = ()

    __str__ = _text
    __repr__ = _line
    _repr_html_ = _html

    def plot(self, path: Place = None) -> "Figure":
        """Draw explained variance and size against error; save it where a path is given.

        Raises RefusedError without matplotlib.
        """
        from share_registry.values.plots import plot_analysis

        return plot_analysis(self, path)

    def plot_spectra(self, path: Place = None) -> "Figure":
        """Draw the explained variance per module and side. As `plot`."""
        from share_registry.values.plots import plot_spectra

        return plot_spectra(self, path)

    def plot_budget(self, path: Place = None) -> "Figure":
        """Draw bits per parameter against the budget, with the Gaussian bound. As `plot`."""
        from share_registry.values.plots import plot_budget

        return plot_budget(self, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One task beside the adapter that was asked about.

    Attributes:
        cosine: Cosine of the scaled dW: gauge-free, over all modules.
        distance: |dW asked - dW of the task| / |dW asked|.
        overlap: Mean cosine of the principal angles between the row spaces of A.
        chance: What random rows of these ranks have.
        continues: Whether one looks trained on from the other: the distance is below .5.
        one_start: Whether both look trained from one random A: their A share rows, their B do not.
    """

    ref: str
    task: TaskName
    version: Version
    cosine: float
    distance: float
    overlap: float
    chance: float
    continues: bool
    one_start: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Similar:
    """The tasks nearest to an adapter, nearest first; iterate, index or print it."""

    adapter: str
    space: SpaceName
    neighbours: tuple[Neighbour, ...]

    __str__ = _text
    __repr__ = _line
    _repr_html_ = _html

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self.neighbours)

    def __len__(self) -> int:
        return len(self.neighbours)

    def __getitem__(self, position: int) -> Neighbour:
        return self.neighbours[position]
