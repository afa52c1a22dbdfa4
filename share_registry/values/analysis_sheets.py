"""How the results of `retention`, `analyze` and `similar` look, as sheets that `render` turns into text or HTML."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from share_registry.values.analyses import Analysis, Retention, RetentionCell, Similar, Spectrum
from share_registry.values.render import Sheet, count, measured, percent, size, typed_percent
from share_registry.values.table import NOTHING, Table

_BEATEN: Final = "bound: of Gaussian rows coded one by one; it charges a weak row on both sides, which coding leaves out once, and is too high where many are left out."
_COLUMNS: Final = 12
"""Commits shown of a long history: the first and the latest."""


def sheet(value: object) -> Sheet:
    """Return what is shown of one of these results."""
    return _SHEETS[type(value)](value)


def _retention_sheet(value: Retention) -> Sheet:
    shown = _shown(len(value.commits))
    headers = ("task", *(f"c{value.commits[column].number}>" for column in shown), "last - first>")
    rows = tuple(
        (
            row.task,
            *(_cell(row.cells[column], value.metric) for column in shown),
            _signed(row.transfer),
        )
        for row in value.rows
    )
    facts = (
        [
            ("mean error", percent(value.mean)),
            ("worst error", percent(value.worst)),
            ("last - first", _signed(value.transfer)),
        ]
        if value.rows
        else []
    )
    if value.metric_transfer is not None:
        facts.append((f"{value.metric}, last - first", f"{value.metric_transfer:+.4g}"))
    hidden = len(value.commits) - len(shown)
    notes = (
        [f"{count(hidden, 'commit')} in between {'is' if hidden == 1 else 'are'} not shown."]
        if hidden
        else []
    )
    if any(cell.bound for row in value.rows for cell in row.cells if cell):
        notes.append(
            "<=: an upper bound, as the adapter that was handed in is no longer in the store."
        )
    title = f"{value.space}: {count(len(value.rows), 'task')} over {count(len(value.commits), 'commit')}"
    return Sheet(
        title=title,
        facts=tuple(facts),
        tables=(Table(headers=headers, rows=rows),),
        notes=tuple(notes),
    )


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


def _analysis_sheet(value: Analysis) -> Sheet:
    facts = (
        ("adapters", str(len(value.adapters))),
        ("parameters", f"{sum(adapter.parameters for adapter in value.adapters):,}"),
        ("raw", size(sum(adapter.raw_bytes for adapter in value.adapters))),
        *(
            [
                (
                    "break-even",
                    f"from more than {value.break_even:.1f} adapters on (k / r at 90 % of the energy)",
                )
            ]
            if len(value.adapters) > 1
            else []
        ),
    )
    tables = (
        _forecast_table(value),
        _kinship_table(value),
        _continued_table(value),
        _left_out_table(value),
        _spectrum_table(value.spectra),
    )
    beaten = any(found.bits_alone < found.bits_bound for found in value.forecasts)
    notes = (*value.notes, *([_BEATEN] if beaten else []))
    return Sheet(title=value.verdict, facts=facts, tables=tables, notes=notes)


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


def _similar_sheet(value: Similar) -> Sheet:
    rows = tuple(
        (
            found.ref,
            f"{found.cosine:.3f}",
            f"{found.distance:.3f}",
            f"{found.overlap:.2f}",
            f"{found.chance:.2f}",
            "continues" if found.continues else "one start" if found.one_start else NOTHING,
        )
        for found in value.neighbours
    )
    title = f"{value.adapter}: {len(rows)} nearest in {value.space}"
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


_SHEETS: Final[Mapping[type, Callable[[Any], Sheet]]] = {
    Retention: _retention_sheet,
    Analysis: _analysis_sheet,
    Similar: _similar_sheet,
}
