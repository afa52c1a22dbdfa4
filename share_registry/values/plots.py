"""Plots of what `retention` and `analyze` find, with matplotlib.

Imported only when called, and no state of pyplot is touched.

Colours are those of Okabe and Ito and the map cividis: they tell apart for colour-blind eyes and in
print.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from share_registry.errors import RefusedError, StoreError
from share_registry.values.analyses import Analysis, Place, Retention, Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_MAP: Final = "cividis"
_MOST_LABELS: Final = 40
_MOST_NUMBERS: Final = 240
"""Cells that still have room for their number."""
_LONGEST: Final = 34
_DPI: Final = 150


def plot_retention(found: Retention, path: Place = None) -> "Figure":
    """Draw a forgetting matrix.

    Tasks against commits, the colour is the error, or the metric that was asked for.

    Hatched is an upper bound, empty a task that was not live or has no such metric.

    Args:
        found: What `retention` returned.
        path: Where to save it; the ending says the format.

    Raises:
        RefusedError: matplotlib is not installed.
        StoreError: the file cannot be written.
    """
    rows, columns = max(len(found.rows), 1), max(len(found.commits), 1)
    figure = _figure(min(2.8 + 0.52 * columns, 16.0), min(1.6 + 0.3 * rows, 14.0))
    axes = figure.add_subplot()
    _draw_matrix(figure, axes, found)
    _ticks(axes.set_xticks, [f"c{commit.number}" for commit in found.commits])
    _ticks(axes.set_yticks, [_short(row.task) for row in found.rows])
    axes.set_xlabel(
        f"commit that changed a task{' (hatched: upper bound)' if axes.patches else ''}"
    )
    axes.set_title(
        f"{found.space}: {found.metric or 'error'} by task and commit", loc="left", fontsize=11
    )
    return _saved(figure, path)


def plot_analysis(found: Analysis, path: Place = None) -> "Figure":
    """Draw both plots of an analysis side by side.

    Explained variance per module and side, and bits per parameter against the budget. As
    `plot_spectra`.
    """
    height = _height(found)
    figure = _figure(16.5, max(height, 4.4))
    grid = figure.add_gridspec(1, 2, width_ratios=(11.0, 5.5))
    left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    _draw_panels(left, found)
    _draw_budgets(right.add_subplot(), found)
    return _saved(figure, path)


def plot_spectra(found: Analysis, path: Place = None) -> "Figure":
    """Draw the share of the energy that the first k directions hold, by module, for A and for B.

    A mark is the k of 90 %.

    Args:
        found: What `analyze` returned.
        path: Where to save it; the ending says the format.

    Raises:
        RefusedError: matplotlib is not installed.
        StoreError: the file cannot be written.
    """
    figure = _figure(11.0, _height(found))
    _draw_panels(figure, found)
    return _saved(figure, path)


def plot_budget(found: Analysis, path: Place = None) -> "Figure":
    """Draw bits per parameter against the error budget.

    Alone, with references, with a joint basis, and the Gaussian bound without sharing. As
    `plot_spectra`.
    """
    figure = _figure(6.6, 4.4)
    _draw_budgets(figure.add_subplot(), found)
    return _saved(figure, path)


def _figure(width: float, height: float) -> "Figure":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise RefusedError(
            "plots need matplotlib, which is not installed.", hint="Install share-registry[plot]."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _saved(figure: "Figure", path: Place) -> "Figure":
    if path is not None:
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


def _draw_matrix(figure: "Figure", axes: "Axes", found: Retention) -> None:
    """Draw the cells; write their numbers where there is room, and hatch what is a bound."""
    import numpy as np
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    values = np.full((max(len(found.rows), 1), max(len(found.commits), 1)), np.nan)
    for y, row in enumerate(found.rows):
        for x, cell in enumerate(row.cells):
            if cell is not None:
                values[y, x] = (
                    100 * cell.error
                    if found.metric is None
                    else np.nan
                    if cell.metric is None
                    else cell.metric
                )
                if cell.bound and found.metric is None:
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
    there = values[~np.isnan(values)]
    low = 0.0 if found.metric is None or not there.size else float(there.min())
    high = float(there.max(initial=low))
    high = (
        high if high > low else low + (abs(low) or 1.0) / 10
    )  # one value everywhere has a scale too
    image = axes.imshow(
        values, aspect="auto", cmap=_MAP, vmin=low, vmax=high, interpolation="nearest"
    )
    axes.set_facecolor("#eeeeee")
    for y, x in np.argwhere(~np.isnan(values)) if values.size <= _MOST_NUMBERS else ():
        colour = "black" if values[y, x] > (low + high) / 2 else "white"
        around = (
            [withStroke(linewidth=2, foreground="white" if colour == "black" else "black")]
            if axes.patches
            else []
        )
        axes.text(
            x,
            y,
            f"{values[y, x]:.3g}",
            ha="center",
            va="center",
            fontsize=7,
            color=colour,
            path_effects=around,
        )
    figure.colorbar(
        image, ax=axes, label=found.metric or "relative error of dW, %", fraction=0.05, pad=0.02
    )


def _draw_budgets(axes: "Axes", found: Analysis) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    budgets = [100 * forecast.budget for forecast in found.forecasts]
    lines: tuple[tuple[str, list[float], str, str], ...] = (
        (
            "Gaussian bound, no sharing",
            [forecast.bits_bound for forecast in found.forecasts],
            _GREY,
            ".--",
        ),
        ("alone", [forecast.bits_alone for forecast in found.forecasts], _BLUE, "o-"),
        (
            "references to earlier adapters",
            [forecast.bits_references for forecast in found.forecasts],
            _ORANGE,
            "s-",
        ),
        ("joint basis", [forecast.bits_joint for forecast in found.forecasts], _GREEN, "^-"),
    )
    for label, bits, colour, style in lines:
        axes.plot(
            budgets,
            bits,
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
    axes.set_title(f"{len(found.adapters)} adapters: size against error", loc="left", fontsize=11)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)


def _height(found: Analysis) -> float:
    modules = max(
        (sum(spectrum.side == side for spectrum in found.spectra) for side in "ab"), default=0
    )
    return min(max(2.2 + 0.24 * modules, 3.0), 16.0)


def _draw_panels(figure: "FigureBase", found: Analysis) -> None:
    """Draw a panel for each side, modules in the same order."""
    sides = {
        side: [spectrum for spectrum in found.spectra if spectrum.side == side]
        for side in ("a", "b")
    }
    panels = figure.subplots(1, 2, sharey=True)
    image = None
    for axes, (side, spectra) in zip(panels, sides.items(), strict=True):
        image = _draw_spectra(axes, spectra)
        axes.set_title(f"{side.upper()} of {len(found.adapters)} adapters", loc="left", fontsize=11)
        axes.set_xlabel("directions k (mark: 90 %)")
    _ticks(panels[0].set_yticks, _module_labels([spectrum.module for spectrum in sides["a"]]))
    if image is not None:
        figure.colorbar(image, ax=panels, label="explained variance, %", fraction=0.03, pad=0.02)


def _draw_spectra(axes: "Axes", spectra: Sequence[Spectrum]) -> Any:
    """Draw one row a module over a logarithmic axis of k."""
    import numpy as np

    if not spectra:
        return None
    largest = max(spectrum.rows for spectrum in spectra)
    ks = np.unique(np.geomspace(1, largest, 160))
    known = [np.array(spectrum.explained) for spectrum in spectra]
    shares = np.array(
        [np.interp(np.log(ks), np.log(part[:, 0]), 100 * part[:, 1]) for part in known]
    )
    edges = np.sqrt(ks[1:] * ks[:-1])
    image = axes.pcolormesh(
        [ks[0], *edges, ks[-1]],
        np.arange(len(spectra) + 1) - 0.5,
        shares,
        cmap=_MAP,
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
    shown = [
        k for k in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192) if k <= largest
    ]
    axes.set_xticks(shown, [str(k) for k in shown])
    axes.minorticks_off()
    axes.set_ylim(len(spectra) - 0.5, -0.5)
    return image


def _module_labels(modules: Sequence[str]) -> list[str]:
    """Return module names without what all of them begin with."""
    parts = [module.split(".") for module in modules]
    same = 0
    while parts and all(len(part) > same + 1 and part[same] == parts[0][same] for part in parts):
        same += 1
    return [_short(".".join(part[same:])) for part in parts]


def _ticks(setter: Any, labels: Sequence[str]) -> None:
    """Label every place, or every so many where there are too many to read."""
    every = -(-len(labels) // _MOST_LABELS) or 1
    setter(range(0, len(labels), every), list(labels[::every]), fontsize=8)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"…{name[-_LONGEST + 1 :]}"
