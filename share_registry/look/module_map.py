"""The report of an adapter as heat maps: bits and error by layer and projection."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from share_registry.look.heat_map import LEAST_SPREAD, HeatCell, HeatMap, draw_heat_map, ends_of
from share_registry.look.module_grid import bits_of, errors_of, grid_of, sides_of
from share_registry.look.units import count, percent, size

if TYPE_CHECKING:
    from share_registry.values.analyses import Spectrum
    from share_registry.values.cost_reports import AdapterReport

_MOST_ROWS: Final = 200
_MOST_COLUMNS: Final = 40


def bits_map(report: "AdapterReport") -> str:
    """Draw the bits per parameter of both factors of each module, by layer and projection.

    Args:
        report: With its modules, as `show` and `commit` return it.
    """
    tips = {
        module: "; ".join(
            f"{each.side.upper()} {each.bits_per_parameter:.2f} bits per parameter, "
            f"{size(each.bytes)}, {each.reference}"
            for each in reports
        )
        for module, reports in sides_of(report).items()
    }
    values = bits_of(report)
    return _draw(values, tips, write="{:.2f}".format, unit="bits per parameter", look="bits")


def error_map(report: "AdapterReport") -> str:
    """Draw the relative error of dW of each module, by layer and projection; as `bits_map`."""
    values = errors_of(report)
    tips = {module: f"error {percent(value)}" for module, value in values.items()}
    return _draw(values, tips, write=_percents, unit="% of |dW|, relative error", look="errors")


def directions_map(spectra: "Sequence[Spectrum]") -> str:
    """Draw how many directions hold 90 % of the energy of each module; as `bits_map`.

    Args:
        spectra: Of one side of each module.
    """
    values = {spectrum.module: float(spectrum.k90) for spectrum in spectra}
    tips = {
        spectrum.module: f"90 % of the energy in {count(spectrum.k90, 'direction')} of "
        f"{spectrum.rows}, effective rank {spectrum.effective_rank:.1f}"
        for spectrum in spectra
    }
    unit = "directions for 90 % of the energy"
    return _draw(values, tips, write="{:.0f}".format, unit=unit, look="directions")


def change_map(changes: Mapping[str, float]) -> str:
    """Draw by how much dW of each module changed, relative to before; as `bits_map`.

    Args:
        changes: Module -> |change of dW| / |dW|.
    """
    tips = {module: f"changed by {percent(change)}" for module, change in changes.items()}
    return _draw(changes, tips, write=_percents, unit="% of |dW|, change", look="changes")


def _percents(value: float) -> str:
    return percent(value).removesuffix(" %")


def _draw(
    values: Mapping[str, float],
    tips: Mapping[str, str],
    *,
    write: Callable[[float], str],
    unit: str,
    look: str,
) -> str:
    grid = grid_of(values)
    rows = _largest(grid.modules, values, _MOST_ROWS)
    columns = _largest([*zip(*grid.modules, strict=True)], values, _MOST_COLUMNS)
    cells = [
        [_cell(grid.modules[row][column], values, tips, write) for column in columns]
        for row in rows
    ]
    low, high = ends_of([*values.values()] or [0.0], least=LEAST_SPREAD)
    extremes = sorted(values, key=lambda module: values[module])
    said = [f"{count(len(values), 'module')} by layer and projection"]
    if extremes:
        least, most = extremes[0], extremes[-1]
        said.append(
            f"least {write(values[least])} in {least}, most {write(values[most])} in {most}"
        )
    return draw_heat_map(
        HeatMap(
            title=f"{unit} of each module",
            description=f"{'; '.join(said)}.",
            corner="layer",
            unit=unit,
            rows=[grid.rows[row] for row in rows],
            columns=[grid.columns[column] for column in columns],
            cells=cells,
            low=low,
            high=high,
            ends=(write(max(low, 0.0)), write(high)),
            notes=[
                f"{len(drawn)} of {len(names)} {lines}: those with the largest numbers"
                for lines, drawn, names in (
                    ("rows", rows, grid.rows),
                    ("columns", columns, grid.columns),
                )
                if len(drawn) < len(names)
            ],
        ),
        look=look,
    )


def _largest(
    lines: Sequence[Sequence[str | None]], values: Mapping[str, float], most: int
) -> list[int]:
    """Return which rows or columns are drawn: of very many those with the largest values."""
    largest = sorted(
        range(len(lines)),
        key=lambda line: max(values[module] for module in lines[line] if module is not None),
    )
    return sorted(largest[-most:])


def _cell(
    module: str | None,
    values: Mapping[str, float],
    tips: Mapping[str, str],
    write: Callable[[float], str],
) -> HeatCell | None:
    if module is None:
        return None
    value = values[module]
    return HeatCell(value=value, text=write(value), tip=f"{module}: {tips[module]}")
