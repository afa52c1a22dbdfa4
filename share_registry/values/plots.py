"""Plots of a log, a retention matrix and an analysis, with matplotlib.

matplotlib is imported when something is drawn, and no state of pyplot is touched. Colours are the
palette's, in its light theme.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Sequence, Sized
from dataclasses import replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

from share_registry import kinds
from share_registry.errors import NotFoundError, RefusedError, StoreError, ensure
from share_registry.kinds import takes
from share_registry.look.heat_map import ends_of, without_shared_beginning
from share_registry.look.histories import TaskHistory, histories
from share_registry.look.palette import LIGHT
from share_registry.look.units import count, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase
    from matplotlib.image import AxesImage

    from share_registry.values.analyses import Analysis, Retention, RetentionRow, Spectrum
    from share_registry.values.commits import Log

# Where a plot is saved, by the ending of its name; None: nowhere
Place = str | os.PathLike[str] | None
_MOST_LABELS: Final = 40
# Cells that still have room for their number
_MOST_NUMBERS: Final = 240
# Of the colours, about the middle
_LEAST_SPREAD: Final = 0.1
_LONGEST: Final = 34
# Tasks of one time line
_MOST_PANELS: Final = 8
# How far an alias is drawn beyond the last commit
_BEYOND: Final = 0.4
_DPI: Final = 150


@takes(path=kinds.path)
def plot_retention(matrix: "Retention", path: Place = None) -> "Figure":
    """Draw a forgetting matrix: tasks against commits, the colour is the error or the metric.

    Tasks stand in the order in which they came. Hatched is an upper bound, empty a task that was
    not live or has no such metric.

    Args:
        matrix: What `retention` returned.
        path: Where to save it; the ending says the format.

    Raises:
        NotFoundError: the space has no version.
        RefusedError: matplotlib is not installed, or has no such format.
        StoreError: the file cannot be written.
    """
    _ensure_drawable(matrix.rows, f"space {matrix.space} has no version")
    matrix = replace(matrix, rows=tuple(sorted(matrix.rows, key=_first_column)))
    rows, columns = len(matrix.rows), len(matrix.commits)
    figure = _figure(min(2.8 + 0.52 * columns, 16.0), min(1.6 + 0.3 * rows, 14.0))
    axes = figure.add_subplot()
    image = _draw_matrix(axes, matrix)
    label = matrix.metric or f"relative error of dW, %{_alike(matrix)}"
    figure.colorbar(image, ax=axes, label=label, fraction=0.05, pad=0.02)
    _label(axes.set_xticks, [f"c{commit.number}" for commit in matrix.commits])
    _label(axes.set_yticks, [_ending(row.task) for row in matrix.rows])
    hatched = " (hatched: upper bound)" if axes.patches else ""
    axes.set_xlabel(f"commit that changed a task{hatched}")
    axes.set_title(
        f"{matrix.space}: {matrix.metric or 'error'} by task and commit", loc="left", fontsize=11
    )
    return _save(figure, path)


@takes(path=kinds.path)
def plot_log(log: "Log", path: Place = None) -> "Figure":
    """Draw the versions of each task and where its aliases pointed, commit by commit.

    A log of a task is that task alone. Of many tasks those with the most commits; each space has
    commits of its own. As `plot_spectra`, and NotFoundError where there is nothing to draw.
    """
    by_task = {place: history for place, history in histories(log).items() if history.length}
    _ensure_drawable(by_task, "no commit of this log made a version or moved an alias")
    longest = sorted(by_task, key=lambda place: -by_task[place].length)[:_MOST_PANELS]
    tasks: dict[str, list[str]] = defaultdict(list)
    for space, task in sorted(longest):
        tasks[space].append(task)
    figure = _figure(9.0, 0.9 * len(tasks) + 1.5 * len(longest))
    heights = [0.6 + len(names) for names in tasks.values()]
    groups = figure.subfigures(len(tasks), 1, squeeze=False, height_ratios=heights)[:, 0]
    for group, (space, names) in zip(groups, tasks.items(), strict=True):
        panels = group.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        last = max(commit.number for commit in log if commit.space == space)
        for axes, task in zip(panels, names, strict=True):
            _draw_history(axes, task, by_task[space, task], last=last)
        panels[-1].set_xlabel(f"commit of {space}")
    if more := len(by_task) - len(longest):
        figure.supxlabel(f"{count(more, 'more task is', 'more tasks are')} not drawn", fontsize=10)
    return _save(figure, path)


@takes(path=kinds.path)
def plot_analysis(analysis: "Analysis", path: Place = None) -> "Figure":
    """Draw `plot_spectra` and `plot_budget` side by side. As `plot_spectra`."""
    figure = _figure(16.5, max(_height(analysis), 4.4))
    grid = figure.add_gridspec(1, 2, width_ratios=(11.0, 5.5))
    _draw_panels(figure.add_subfigure(grid[0]), analysis)
    _draw_budgets(figure.add_subfigure(grid[1]).add_subplot(), analysis)
    return _save(figure, path)


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
    figure = _figure(11.0, _height(analysis))
    _draw_panels(figure, analysis)
    return _save(figure, path)


@takes(path=kinds.path)
def plot_budget(analysis: "Analysis", path: Place = None) -> "Figure":
    """Draw bits per parameter against the error budget.

    Alone, with references, with a joint basis, and the Gaussian bound without sharing. As
    `plot_spectra`.
    """
    figure = _figure(6.6, 4.4)
    _draw_budgets(figure.add_subplot(), analysis)
    return _save(figure, path)


def _draw_history(axes: "Axes", task: str, history: TaskHistory, *, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    for colour, (alias, moves) in zip(
        cycle(LIGHT.series),
        sorted(history.moves.items()),
        strict=False,
    ):
        # what it stands for now is seen also where it moved last of all
        numbers = [number for number, _ in moves] + [last + _BEYOND]
        versions = [float("nan") if version is None else version for _, version in moves]
        axes.step(
            numbers,
            [*versions, versions[-1]],
            where="post",
            color=colour,
            label=alias,
            linewidth=3,
            alpha=0.8,
        )
    axes.plot(
        [*history.versions],
        [*history.versions.values()],
        "o",
        color=LIGHT.muted,
        markersize=5,
        zorder=3,
    )
    for locate in (axes.xaxis, axes.yaxis):
        locate.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter("v{x:.0f}")
    axes.xaxis.set_major_formatter("c{x:.0f}")
    axes.margins(y=0.25)
    axes.set_title(_ending(task), loc="left", fontsize=10)
    axes.grid(color=LIGHT.line, linewidth=0.6)
    if history.moves:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _first_column(row: "RetentionRow") -> int:
    """Return the first commit after which a task was there."""
    there = (column for column, cell in enumerate(row.cells) if cell is not None)
    return next(there, len(row.cells))


def _ensure_drawable(parts: Sized, reason: str) -> None:
    ensure(
        parts,
        NotFoundError(
            f"there is nothing to draw: {reason}.", hint="Commit an adapter first, or ask for more."
        ),
    )


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RefusedError(
            "plots need matplotlib, which is not installed.", hint="Install share-registry[plot]."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _colour_map() -> Any:
    """Return the scale of the palette as a colour map."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share_registry", LIGHT.scale)


def _height(analysis: "Analysis") -> float:
    sides = [spectrum.side for spectrum in analysis.spectra]
    return min(max(2.2 + 0.24 * max(sides.count("a"), sides.count("b")), 3.0), 16.0)


def _save(figure: "Figure", path: Place) -> "Figure":
    if path is None:
        return figure
    try:
        figure.savefig(os.fspath(path), dpi=_DPI)
    except ValueError as error:
        raise RefusedError(
            f"a plot cannot be saved as {os.fspath(path)!r}: {error}.",
            hint="End the name in .png, .svg or .pdf.",
        ) from error
    except OSError as error:
        raise StoreError(
            f"{os.fspath(path)} cannot be written: {error.strerror}.",
            hint="Save into a directory that is there.",
        ) from error
    return figure


def _draw_matrix(axes: "Axes", matrix: "Retention") -> "AxesImage":
    """Draw the cells; write their numbers where there is room, and hatch what is a bound."""
    import numpy as np
    from matplotlib.patches import Rectangle

    values = np.full((len(matrix.rows), len(matrix.commits)), np.nan)
    cells = (
        (x, y, cell)
        for y, row in enumerate(matrix.rows)
        for x, cell in enumerate(row.cells)
        if cell is not None
    )
    for x, y, cell in cells:
        if matrix.metric is not None:
            values[y, x] = np.nan if cell.metric is None else cell.metric
            continue
        values[y, x] = 100 * cell.error
        if cell.bound:
            axes.add_patch(
                Rectangle(
                    (x - 0.5, y - 0.5),
                    1,
                    1,
                    fill=False,
                    hatch="//",
                    edgecolor="#ffffff55",
                    linewidth=0,
                )
            )
    least = _LEAST_SPREAD if matrix.metric is None else 0.0
    low, high = ends_of(values[~np.isnan(values)].tolist(), least=least)
    axes.set_facecolor(LIGHT.panel)
    if values.size <= _MOST_NUMBERS:
        write = _error if matrix.metric is None else "{:.3g}".format
        _write_numbers(axes, values, write, middle=(low + high) / 2)
    return axes.imshow(
        values, aspect="auto", cmap=_colour_map(), vmin=low, vmax=high, interpolation="nearest"
    )


def _alike(matrix: "Retention") -> str:
    """Return the span of errors that are too near each other for colours to tell them apart."""
    errors = [100 * cell.error for row in matrix.rows for cell in row.cells if cell is not None]
    low, high = min(errors), max(errors)
    if high - low >= (high + low) * _LEAST_SPREAD:
        return ""
    return f"\nall alike: {' to '.join(dict.fromkeys((_error(low), _error(high))))}"


def _error(value: float) -> str:
    """Return an error in percent, cut as in tables."""
    return percent(round(float(value) / 100, 12)).removesuffix(" %")


def _write_numbers(
    axes: "Axes", values: Any, write: Callable[[float], str], *, middle: float
) -> None:
    """Write each value into its cell, legible on its colour and on hatching."""
    import numpy as np
    from matplotlib.patheffects import withStroke

    for y, x in np.argwhere(~np.isnan(values)):
        text, around = ("white", "black") if values[y, x] > middle else ("black", "white")
        number = axes.text(
            x, y, write(values[y, x]), ha="center", va="center", fontsize=7, color=text
        )
        if axes.patches:
            number.set_path_effects([withStroke(linewidth=2, foreground=around)])


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
    axes.set_title(
        f"{len(analysis.adapters)} adapters: size against error", loc="left", fontsize=11
    )
    axes.grid(color=LIGHT.line, linewidth=0.6)
    axes.legend(frameon=False)


def _draw_panels(figure: "FigureBase", analysis: "Analysis") -> None:
    panels = figure.subplots(1, 2, sharey=True)
    for axes, side in zip(panels, "ab", strict=True):
        axes.set_title(
            f"{side.upper()} of {len(analysis.adapters)} adapters", loc="left", fontsize=11
        )
        axes.set_xlabel("directions k (mark: 90 %)")
        spectra = [spectrum for spectrum in analysis.spectra if spectrum.side == side]
        if not spectra:
            continue
        image = _draw_spectra(axes, spectra)
        if side == "a":
            _label(
                axes.set_yticks,
                [
                    *map(
                        _ending, without_shared_beginning([spectrum.module for spectrum in spectra])
                    )
                ],
            )
        else:
            figure.colorbar(
                image, ax=panels, label="explained variance, %", fraction=0.03, pad=0.02
            )


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
        cmap=_colour_map(),
        vmin=0,
        vmax=100,
        rasterized=True,
    )
    axes.plot(
        [spectrum.k90 for spectrum in spectra],
        range(len(spectra)),
        "|",
        color="black",
        markersize=9,
        markeredgewidth=2,
    )
    axes.set_xscale("log")
    powers = [2**power for power in range(14) if 2**power <= largest]
    axes.set_xticks(powers, [str(power) for power in powers])
    axes.minorticks_off()
    axes.set_ylim(len(spectra) - 0.5, -0.5)
    return image


def _label(set_ticks: Any, labels: Sequence[str]) -> None:
    step = -(-len(labels) // _MOST_LABELS) or 1
    set_ticks(range(0, len(labels), step), list(labels[::step]), fontsize=8)


def _ending(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[-_LONGEST + 1 :]}"
