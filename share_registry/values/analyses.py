"""What `retention`, `analyze` and `similar` return.

Frozen, printable, plottable values free of database and tensor types.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from typing_extensions import override

from share_registry.look.units import count, measured, percent, size, typed_percent
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.values import plots
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import ELLIPSIS, NOTHING, Table

# A saving below this share of the bytes is none to speak of
WORTH: Final = 0.03


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
        error: As recorded, against the given adapter.
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
        first: Error when the adapter that the task stands for now was committed.
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

    @property
    def first_column(self) -> int:
        """The first commit after which the task was there; behind the last where it never was."""
        there = (column for column, cell in enumerate(self.cells) if cell is not None)
        return next(there, len(self.cells))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Retention(Shown):
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

    plot = plots.plot_retention

    @override
    def sheet(self) -> Sheet:
        facts = {
            "mean error": percent(self.mean),
            "worst error": percent(self.worst),
            "error, last - first": _signed(self.transfer),
        }
        if self.metric is not None:
            facts[f"{self.metric}, last - first"] = _change(self.metric_transfer)
        notes = []
        if any(cell.bound for row in self.rows for cell in row.cells if cell):
            notes.append("<=: an upper bound, as the given adapter is no longer in the store.")
        tasks, commits = count(len(self.rows), "task"), count(len(self.commits), "commit")
        return Sheet(
            title=f"{self.space}: {tasks} over {commits}",
            facts=tuple(facts.items()) if self.rows else (),
            tables=(self._table(),),
            notes=tuple(notes),
        )

    def _table(self) -> Table:
        """Return tasks by commits: the first of them, and the newest that there is room for."""
        table = Table.of(
            (
                {
                    "task": row.task,
                    **self._cells(row),
                    "last - first>": _signed(row.transfer)
                    if self.metric is None
                    else _change(row.metric_transfer),
                }
                for row in self.rows
            ),
            elided=True,
        )
        return replace(table, spare=table.headers[2:-2])

    def _cells(self, row: RetentionRow) -> dict[str, str]:
        cells = {
            f"c{commit.number}>": _cell(cell, self.metric)
            for commit, cell in zip(self.commits, row.cells, strict=True)
        }
        first, *others = cells.items()
        if len(others) < _COLUMNS:
            return cells
        return dict((first, (ELLIPSIS, ELLIPSIS), *others[1 - _COLUMNS :]))


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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Analysis(Shown):
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

    plot = plots.plot_analysis
    plot_spectra = plots.plot_spectra
    plot_budget = plots.plot_budget

    @override
    def sheet(self) -> Sheet:
        facts = {
            "adapters": str(len(self.adapters)),
            "parameters": f"{sum(adapter.parameters for adapter in self.adapters):,}",
            "raw": size(sum(adapter.raw_bytes for adapter in self.adapters)),
        }
        if len(self.adapters) > 1:
            least = f"from more than {self.break_even:.1f} adapters on"
            facts["break-even"] = f"{least} (k / r at 90 % of the energy)"
            # in full precision a basis may be smaller where, coded, it saves nothing
            if all(forecast.saving < WORTH for forecast in self.forecasts):
                facts["break-even"] = "none: sharing saves nothing to speak of at these budgets"
        beaten = any(forecast.bits_alone < forecast.bits_bound for forecast in self.forecasts)
        return Sheet(
            title=f"what {count(len(self.adapters), 'adapter')} share",
            text=tuple(statement.text for statement in self.statements),
            facts=tuple(facts.items()),
            tables=(
                Table.of(
                    {
                        "budget>": typed_percent(forecast.budget),
                        "alone>": size(forecast.alone),
                        "references>": size(forecast.references),
                        "joint basis>": size(forecast.joint),
                        "saved>": percent(max(forecast.saving, 0.0)),
                        "bits/parameter alone>": f"{forecast.bits_alone:.2f}",
                        "best>": f"{min(forecast.bits_references, forecast.bits_joint):.2f}",
                        "bound>": f"{forecast.bits_bound:.2f}",
                    }
                    for forecast in self.forecasts
                ),
                Table.of(
                    {
                        "kinship": kinship.kind,
                        "overlap of A>": f"{kinship.overlap_a:.2f}",
                        "overlap of B>": f"{kinship.overlap_b:.2f}",
                        "chance>": f"{kinship.chance:.2f}",
                        "adapters": ", ".join(kinship.adapters),
                    }
                    for kinship in self.kinships
                ),
                Table.of(
                    {
                        "adapter": continued.adapter,
                        "continues": continued.previous,
                        "distance>": f"{continued.distance:.2f}",
                    }
                    for continued in self.continued
                ),
                Table.of(
                    {
                        "adapter": loss.adapter,
                        "lost in the others' basis>": f"{loss.error:.2f}",
                        "random basis>": f"{loss.chance:.2f}",
                        "A alone>": f"{loss.error_a:.2f}",
                        "B alone>": f"{loss.error_b:.2f}",
                        "random A>": f"{loss.chance_a:.2f}",
                    }
                    for loss in self.leave_one_out
                ),
                Table.of(
                    {
                        "module": spectrum.module,
                        "side": spectrum.side,
                        "rows>": str(spectrum.rows),
                        "effective rank>": f"{spectrum.effective_rank:.1f}",
                        "k 50 %>": str(spectrum.k50),
                        "k 80 %>": str(spectrum.k80),
                        "k 90 %>": str(spectrum.k90),
                        "k 99 %>": str(spectrum.k99),
                    }
                    for spectrum in self.spectra
                ),
            ),
            notes=(*self.notes, _BEATEN) if beaten else self.notes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """One task beside the adapter that was asked about.

    Attributes:
        cosine: Cosine of the scaled dW: gauge-free, over all modules.
        distance: |dW asked - dW of the task| / |dW asked|.
        overlap: Mean cosine of the principal angles between the row spaces of A.
        chance: What random rows of these ranks have.
        continues: Whether one looks trained on from the other: dW differs by less than half of the
            larger.
        one_start: Whether both look trained from one random A: their A share rows, their B do not.
        shares: Whether their A share rows and their B do too, as of versions far apart.
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
    shares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Similar(Shown):
    """The tasks nearest to an adapter, nearest first; iterate, index or print it."""

    adapter: str
    space: SpaceName
    neighbours: tuple[Neighbour, ...]

    def __iter__(self) -> Iterator[Neighbour]:
        return iter(self.neighbours)

    def __len__(self) -> int:
        return len(self.neighbours)

    def __getitem__(self, position: int) -> Neighbour:
        return self.neighbours[position]

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=f"{self.adapter}: {len(self.neighbours)} nearest in {self.space}",
            tables=(
                Table.of(
                    {
                        "task": neighbour.ref,
                        "cosine of dW>": f"{neighbour.cosine:.3f}",
                        "distance>": f"{neighbour.distance:.3f}",
                        "overlap of A>": f"{neighbour.overlap:.2f}",
                        "chance>": f"{neighbour.chance:.2f}",
                        "looks like": _likeness(neighbour),
                    }
                    for neighbour in self.neighbours
                ),
            ),
            refs=tuple(neighbour.ref for neighbour in self.neighbours),
        )


_BEATEN: Final = (
    "bound: of Gaussian rows coded one by one; it charges a weak row on both sides, which coding "
    "leaves out once, and is too high where many are left out."
)


# Commits shown of a long history: the first and the newest
_COLUMNS: Final = 12


def _cell(cell: RetentionCell | None, metric: str | None) -> str:
    if cell is None:
        return NOTHING
    error = measured(cell.error, bound=cell.bound)
    return error if metric is None or cell.metric is None else f"{error} ({cell.metric:.4g})"


def _signed(value: float) -> str:
    return f"{100 * value:+.2f} %" if value else "0 %"


def _change(value: float | None) -> str:
    """Return the change of a metric."""
    return NOTHING if value is None else f"{value:+.4g}"


def _likeness(neighbour: Neighbour) -> str:
    if neighbour.continues:
        return "continues"
    if neighbour.one_start:
        return "one start"
    return "shared directions" if neighbour.shares else NOTHING
