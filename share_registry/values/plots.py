"""Plots of a retention matrix and of an analysis."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from share_registry import kinds
from share_registry.kinds import takes
from share_registry.look.heat_map import LEAST_SPREAD, ends_of, without_shared_beginning
from share_registry.look.palette import LIGHT
from share_registry.look.units import count
from share_registry.values.plot_frame import (
    Place,
    add_scale,
    colour_map,
    colour_over,
    draw_cells,
    dress,
    ensure_drawable,
    label_ticks,
    new_figure,
    percents,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

    from share_registry.values.analyses import (
        Analysis,
        Retention,
        RetentionCell,
        Spectrum,
    )

# Of a cell
_CORNER: Final = 0.2


@takes(path=kinds.path)
def plot_retention(matrix: "Retention", path: Place = None) -> "Figure":
    """Draw a forgetting matrix: tasks against commits, the colour is the error or the metric.

    Tasks stand in the order in which they came. A corner marks an upper bound; where a task was
    not live, or has no such metric, nothing is drawn.

    Args:
        matrix: What `retention` returned.
        path: Where to save it; the ending says the format.

    Raises:
        NotFoundError: the space has no version.
        RefusedError: matplotlib is not installed, or has no such format.
        StoreError: the file cannot be written.
    """
    ensure_drawable(matrix.rows, f"space {matrix.space} has no version")
    matrix = replace(matrix, rows=tuple(sorted(matrix.rows, key=lambda row: row.first_column)))
    rows, columns = len(matrix.rows), len(matrix.commits)
    figure = new_figure(
        min(max(2.8 + 0.52 * columns, 5.5), 16.0), min(max(1.6 + 0.3 * rows, 2.6), 14.0)
    )
    axes = figure.add_subplot()
    image = _draw_matrix(axes, matrix)
    label = matrix.metric or f"relative error of dW, %{_alike(matrix)}"
    add_scale(figure, image, axes, label)
    label_ticks(axes.set_xticks, [f"c{commit.number}" for commit in matrix.commits])
    label_ticks(axes.set_yticks, [row.task for row in matrix.rows])
    dress(axes, f"{matrix.space}: {matrix.metric or 'error'} by task and commit")
    bounds = " (corner: upper bound)" if axes.patches else ""
    axes.set_xlabel(f"commit that changed a task{bounds}", color=LIGHT.muted)
    return save_figure(figure, path)


@takes(path=kinds.path)
def plot_analysis(analysis: "Analysis", path: Place = None) -> "Figure":
    """Draw `plot_spectra` and `plot_budget` side by side. As `plot_spectra`."""
    figure = new_figure(16.5, max(_height(analysis), 4.4))
    grid = figure.add_gridspec(1, 2, width_ratios=(11.0, 5.5))
    _draw_panels(figure.add_subfigure(grid[0]), analysis)
    _draw_budgets(figure.add_subfigure(grid[1]).add_subplot(), analysis)
    return save_figure(figure, path)


@takes(path=kinds.path)
def plot_spectra(analysis: "Analysis", path: Place = None) -> "Figure":
    """Draw the share of the energy that the first k directions hold, by module, for A and for B.

    A mark is the k of 90 %.

    Args:
        analysis: What `analyze` returned.
        path: Where to save it; the ending says the format.

    Raises:
        RefusedError: matplotlib is not installed, or has no such format.
        StoreError: the file cannot be written.
    """
    figure = new_figure(11.0, _height(analysis))
    _draw_panels(figure, analysis)
    return save_figure(figure, path)


@takes(path=kinds.path)
def plot_budget(analysis: "Analysis", path: Place = None) -> "Figure":
    """Draw bits per parameter against the error budget.

    Alone, with references, with a joint basis, and the Gaussian bound without sharing. As
    `plot_spectra`.
    """
    figure = new_figure(6.6, 4.4)
    _draw_budgets(figure.add_subplot(), analysis)
    return save_figure(figure, path)


def _height(analysis: "Analysis") -> float:
    sides = [spectrum.side for spectrum in analysis.spectra]
    return min(max(2.2 + 0.24 * max(sides.count("a"), sides.count("b")), 3.0), 16.0)


def _draw_matrix(axes: "Axes", matrix: "Retention") -> Any:
    """Draw the cells; a corner marks what is a bound."""
    from matplotlib.patches import Polygon

    values = [[_value(cell, matrix.metric) for cell in row.cells] for row in matrix.rows]
    listed = [value for row in values for value in row if value is not None]
    ends = ends_of(listed, least=LEAST_SPREAD if matrix.metric is None else 0.0)
    write = percents if matrix.metric is None else "{:.3g}".format
    image = draw_cells(axes, values, ends, write)
    for y, row in enumerate(matrix.rows if matrix.metric is None else ()):
        for x, cell in enumerate(row.cells):
            if cell is not None and cell.bound:
                left, top = x - 0.5, y - 0.5
                corner = [(left, top), (left + _CORNER, top), (left, top + _CORNER)]
                colour = colour_over(100 * cell.error, ends)
                axes.add_patch(Polygon(corner, color=colour, linewidth=0))
    return image


def _value(cell: "RetentionCell | None", metric: str | None) -> float | None:
    if cell is None:
        return None
    return 100 * cell.error if metric is None else cell.metric


def _alike(matrix: "Retention") -> str:
    """Return the span of errors that are too near each other for colours to tell them apart."""
    errors = [100 * cell.error for row in matrix.rows for cell in row.cells if cell is not None]
    low, high = min(errors), max(errors)
    if high - low >= (high + low) * LEAST_SPREAD:
        return ""
    return f"\nall alike: {' to '.join(dict.fromkeys((percents(low), percents(high))))}"


def _draw_budgets(axes: "Axes", analysis: "Analysis") -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    forecasts = analysis.forecasts
    budgets = [100 * forecast.budget for forecast in forecasts]
    lines = (
        ("Gaussian bound, no sharing", "bits_bound", LIGHT.muted, ".--"),
        ("alone", "bits_alone", LIGHT.series[0], "o-"),
        ("references to earlier adapters", "bits_references", LIGHT.series[1], "s-"),
        ("joint basis", "bits_joint", LIGHT.series[2], "^-"),
    )
    for label, member, colour, style in lines:
        axes.plot(
            budgets,
            [getattr(forecast, member) for forecast in forecasts],
            style,
            color=colour,
            label=label,
            linewidth=1.6,
            markersize=6,
            fillstyle="none",
            markeredgewidth=1.4,
        )
    axes.set_xscale("log")
    axes.set_xticks(budgets)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("error budget, % of |dW|")
    axes.set_ylabel("bits per parameter")
    dress(axes, f"{count(len(analysis.adapters), 'adapter')}: size against error", grid=True)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _draw_panels(figure: "FigureBase", analysis: "Analysis") -> None:
    panels = figure.subplots(1, 2, sharey=True)
    for axes, side in zip(panels, "ab", strict=True):
        dress(axes, f"{side.upper()} of {count(len(analysis.adapters), 'adapter')}")
        axes.set_xlabel("directions k (mark: 90 %)", color=LIGHT.muted)
        spectra = [spectrum for spectrum in analysis.spectra if spectrum.side == side]
        if not spectra:
            continue
        image = _draw_spectra(axes, spectra)
        if side == "a":
            modules = [spectrum.module for spectrum in spectra]
            label_ticks(axes.set_yticks, without_shared_beginning(modules))
        else:
            add_scale(figure, image, panels, "explained variance, %")


def _draw_spectra(axes: "Axes", spectra: Sequence["Spectrum"]) -> Any:
    import numpy as np

    largest = max(spectrum.rows for spectrum in spectra)
    ks = np.unique(np.geomspace(1, largest, 160))
    curves = [np.array(spectrum.explained) for spectrum in spectra]
    shares = [np.interp(np.log(ks), np.log(curve[:, 0]), 100 * curve[:, 1]) for curve in curves]
    edges = [ks[0], *np.sqrt(ks[1:] * ks[:-1]), ks[-1]]
    image = axes.pcolormesh(
        edges,
        np.arange(len(spectra) + 1) - 0.5,
        np.array(shares),
        cmap=colour_map(),
        vmin=0,
        vmax=100,
        rasterized=True,
    )
    axes.plot(
        [spectrum.k90 for spectrum in spectra],
        range(len(spectra)),
        "|",
        color=LIGHT.paper,
        markersize=9,
        markeredgewidth=2,
    )
    axes.set_xscale("log")
    powers = [2**power for power in range(14) if 2**power <= largest]
    axes.set_xticks(powers, [str(power) for power in powers])
    axes.minorticks_off()
    axes.set_ylim(len(spectra) - 0.5, -0.5)
    return image
