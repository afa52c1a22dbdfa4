"""What `retention`, `analyze` and `similar` return.

Frozen, printable, plottable values free of database and tensor types.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values.sheet import NOTHING, Sheet, Table, html_of, line_of, text_of
from share_registry.values.units import (
    count,
    measured,
    percent,
    size,
    typed_percent,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = str | os.PathLike[str] | None
"""Where a plot is saved, by the ending of its name; None: nowhere."""


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

    __str__ = text_of
    __repr__ = line_of
    _repr_html_ = html_of

    def plot(self, path: Place = None) -> "Figure":
        """Draw tasks against commits as a heat map; save it where a path is given.

        Raises RefusedError without matplotlib.
        """
        from share_registry.values.plots import plot_retention

        return plot_retention(self, path)

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        shown = _shown(len(self.commits))
        headers = (
            "task",
            *(f"c{self.commits[column].number}>" for column in shown),
            "last - first>",
        )
        rows = tuple(
            (
                row.task,
                *(_cell(row.cells[column], self.metric) for column in shown),
                _signed(row.transfer),
            )
            for row in self.rows
        )
        facts = (
            [
                ("mean error", percent(self.mean)),
                ("worst error", percent(self.worst)),
                ("last - first", _signed(self.transfer)),
            ]
            if self.rows
            else []
        )
        if self.metric_transfer is not None:
            facts.append((f"{self.metric}, last - first", f"{self.metric_transfer:+.4g}"))
        hidden = len(self.commits) - len(shown)
        notes = (
            [f"{count(hidden, 'commit')} in between {'is' if hidden == 1 else 'are'} not shown."]
            if hidden
            else []
        )
        if any(cell.bound for row in self.rows for cell in row.cells if cell):
            notes.append(
                "<=: an upper bound, as the adapter that was handed in is no longer in the store."
            )
        title = f"{self.space}: {count(len(self.rows), 'task')} over {count(len(self.commits), 'commit')}"
        return Sheet(
            title=title,
            facts=tuple(facts),
            tables=(Table(headers=headers, rows=rows),),
            notes=tuple(notes),
        )


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

    __str__ = text_of
    __repr__ = line_of
    _repr_html_ = html_of

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

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        facts = (
            ("adapters", str(len(self.adapters))),
            ("parameters", f"{sum(adapter.parameters for adapter in self.adapters):,}"),
            ("raw", size(sum(adapter.raw_bytes for adapter in self.adapters))),
            *(
                [
                    (
                        "break-even",
                        f"from more than {self.break_even:.1f} adapters on (k / r at 90 % of the energy)",
                    )
                ]
                if len(self.adapters) > 1
                else []
            ),
        )
        tables = (
            _forecast_table(self),
            _kinship_table(self),
            _continued_table(self),
            _left_out_table(self),
            _spectrum_table(self.spectra),
        )
        beaten = any(found.bits_alone < found.bits_bound for found in self.forecasts)
        notes = (*self.notes, *([_BEATEN] if beaten else []))
        return Sheet(title=self.verdict, facts=facts, tables=tables, notes=notes)


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

    __str__ = text_of
    __repr__ = line_of
    _repr_html_ = html_of

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self.neighbours)

    def __len__(self) -> int:
        return len(self.neighbours)

    def __getitem__(self, position: int) -> Neighbour:
        return self.neighbours[position]

    def sheet(self) -> Sheet:
        """Return what is shown of it."""
        rows = tuple(
            (
                found.ref,
                f"{found.cosine:.3f}",
                f"{found.distance:.3f}",
                f"{found.overlap:.2f}",
                f"{found.chance:.2f}",
                "continues" if found.continues else "one start" if found.one_start else NOTHING,
            )
            for found in self.neighbours
        )
        title = f"{self.adapter}: {len(rows)} nearest in {self.space}"
        return Sheet(
            title=title,
            tables=(
                Table(
                    headers=(
                        "task",
                        "cosine of dW>",
                        "distance>",
                        "overlap of A>",
                        "chance>",
                        "looks like",
                    ),
                    rows=rows,
                ),
            ),
        )


_BEATEN: Final = "bound: of Gaussian rows coded one by one; it charges a weak row on both sides, which coding leaves out once, and is too high where many are left out."

_COLUMNS: Final = 12
"""Commits shown of a long history: the first and the latest."""


def _shown(count: int) -> list[int]:
    if count <= _COLUMNS:
        return list(range(count))
    return [*range(_COLUMNS // 2), *range(count - _COLUMNS // 2, count)]


def _cell(cell: RetentionCell | None, metric: str | None) -> str:
    if cell is None:
        return NOTHING
    shown = measured(cell.error, bound=cell.bound)
    return shown if metric is None or cell.metric is None else f"{shown} ({cell.metric:.4g})"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f} %" if value else "0 %"


def _forecast_table(value: Analysis) -> Table:
    rows = tuple(
        (
            typed_percent(found.budget),
            size(found.alone),
            size(found.references),
            size(found.joint),
            percent(max(found.saving, 0.0)),
            f"{found.bits_alone:.2f}",
            f"{min(found.bits_references, found.bits_joint):.2f}",
            f"{found.bits_bound:.2f}",
        )
        for found in value.forecasts
    )
    return Table(
        headers=(
            "budget>",
            "alone>",
            "references>",
            "joint basis>",
            "saved>",
            "bits/parameter alone>",
            "best>",
            "bound>",
        ),
        rows=rows,
    )


def _kinship_table(value: Analysis) -> Table:
    rows = tuple(
        (
            found.kind,
            f"{found.overlap_a:.2f}",
            f"{found.overlap_b:.2f}",
            f"{found.chance:.2f}",
            ", ".join(found.adapters),
        )
        for found in value.kinships
    )
    return Table(
        headers=("kinship", "overlap of A>", "overlap of B>", "chance>", "adapters"), rows=rows
    )


def _continued_table(value: Analysis) -> Table:
    return Table(
        headers=("adapter", "continues", "distance>"),
        rows=tuple(
            (found.adapter, found.previous, f"{found.distance:.2f}") for found in value.continued
        ),
    )


def _left_out_table(value: Analysis) -> Table:
    rows = tuple(
        (
            found.adapter,
            f"{found.error:.2f}",
            f"{found.chance:.2f}",
            f"{found.error_a:.2f}",
            f"{found.error_b:.2f}",
            f"{found.chance_a:.2f}",
        )
        for found in value.leave_one_out
    )
    return Table(
        headers=(
            "adapter",
            "lost in the others' basis>",
            "random basis>",
            "A alone>",
            "B alone>",
            "random A>",
        ),
        rows=rows,
    )


def _spectrum_table(spectra: tuple[Spectrum, ...]) -> Table:
    rows = tuple(
        (
            found.module,
            found.side,
            str(found.rows),
            f"{found.effective_rank:.1f}",
            str(found.k50),
            str(found.k80),
            str(found.k90),
            str(found.k99),
        )
        for found in spectra
    )
    return Table(
        headers=(
            "module",
            "side",
            "rows>",
            "effective rank>",
            "k 50 %>",
            "k 80 %>",
            "k 90 %>",
            "k 99 %>",
        ),
        rows=rows,
    )
