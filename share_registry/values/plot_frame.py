"""What all plots have in common: figures without pyplot, the palette, names that fit, files.

matplotlib is imported when something is drawn, and no state of pyplot is touched. Plots have the
light theme: a picture in a paper or a ticket has a white ground.
"""

import os
from collections.abc import Callable, Sequence, Sized
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from share_registry.errors import NotFoundError, RefusedError, ensure
from share_registry.look.palette import LIGHT, step_of
from share_registry.look.units import percent
from share_registry.outside.files import Outside

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure, FigureBase

# Where a plot is saved, by the ending of its name; None: nowhere
Place = str | os.PathLike[str] | None
_MOST_LABELS: Final = 40
# Cells that still have room for their number
_MOST_NUMBERS: Final = 240
_LONGEST: Final = 34
_DPI: Final = 150
# What formats say of when a file was made, left out
_WITHOUT_TIME: Final = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}


def ensure_drawable(parts: Sized, reason: str) -> None:
    """Check that there is something to draw. Raises NotFoundError, which says why not."""
    ensure(
        parts,
        NotFoundError(
            f"there is nothing to draw: {reason}.", hint="Commit an adapter first, or ask for more."
        ),
    )


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches. Raises RefusedError without matplotlib."""
    try:
        import matplotlib.figure  # noqa: F401 - whether it is there, before what stands on it
    except ImportError as error:
        raise RefusedError(
            "plots need matplotlib, which is not installed.", hint="Install share-registry[plot]."
        ) from error
    from share_registry.values.shown_figure import ShownFigure

    return ShownFigure(figsize=(width, height), layout="constrained", facecolor=LIGHT.paper)


def save_figure(figure: "Figure", path: Place) -> "Figure":
    """Save a figure where a place is given, and return it.

    The file is written whole, in one step in place of what is there; the same plot gives the same
    bytes. A name without an ending gets `.png`. Raises RefusedError, StoreError.
    """
    if path is None:
        return figure
    outside = Outside()
    file = outside.absolute(Path(path))
    ending = file.suffix[1:].lower()
    try:
        if not ending:
            ending = "png"
            file = file.with_name(f"{file.name.rstrip('.')}.png")
        content = _render(figure, ending)
    except ValueError as error:
        raise RefusedError(
            f"a plot cannot be saved as {os.fspath(path)!r}: {error}.",
            hint="End the name in .png, .svg or .pdf.",
        ) from error
    outside.rewrite(file, content, point="plot")
    return figure


def _render(figure: "Figure", ending: str) -> bytes:
    """Return a figure as a file of a format. Raises ValueError where there is no such format."""
    from matplotlib import rc_context

    rendered = BytesIO()
    with rc_context({"svg.hashsalt": "share_registry"}):
        figure.savefig(rendered, format=ending, dpi=_DPI, metadata=_WITHOUT_TIME.get(ending))
    return rendered.getvalue()


def dress(axes: "Axes", title: str, *, grid: bool = False) -> None:
    """Give axes a title and the colours of the palette, without a frame."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=LIGHT.ink)
    axes.set_facecolor(LIGHT.panel if not grid else LIGHT.paper)
    for side, spine in axes.spines.items():
        spine.set_visible(grid and side == "bottom")
        spine.set_color(LIGHT.muted)
    axes.tick_params(color=LIGHT.muted, labelcolor=LIGHT.ink, length=3 if grid else 0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(LIGHT.muted)
    if grid:
        axes.grid(color=LIGHT.line, linewidth=0.6)
        axes.set_axisbelow(True)


def add_scale(figure: "FigureBase", image: Any, axes: Any, label: str) -> None:
    """Add the colours of an image, with what they say, beside its axes."""
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label(label, color=LIGHT.muted)
    bar.outline.set_visible(False)
    bar.ax.tick_params(color=LIGHT.muted, labelcolor=LIGHT.ink)


def colour_map() -> "Colormap":
    """Return the scale of the palette as a colour map."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("share_registry", LIGHT.scale)


def draw_cells(
    axes: "Axes",
    values: Sequence[Sequence[float | None]],
    ends: tuple[float, float],
    write: Callable[[float], str],
) -> Any:
    """Draw rows of values from the top down as cells, with their numbers where there is room.

    Args:
        axes: Where.
        values: Rows of equal length; None for an empty cell.
        ends: The values at the ends of the colours.
        write: Returns a value as it is read.

    Returns:
        What `add_scale` takes as image.
    """
    from matplotlib.colors import Normalize

    rows, columns = len(values), max(map(len, values), default=0)
    shown = [[float("nan") if value is None else value for value in row] for row in values]
    few = rows * columns <= _MOST_NUMBERS
    image = axes.pcolormesh(
        [column - 0.5 for column in range(columns + 1)],
        [row - 0.5 for row in range(rows + 1)],
        shown,
        cmap=colour_map(),
        norm=Normalize(*ends),
        edgecolors=LIGHT.paper if few else "none",
        linewidth=1.0,
    )
    axes.set_ylim(rows - 0.5, -0.5)
    if few:
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                if value is not None:
                    colour = colour_over(value, ends)
                    axes.text(
                        x, y, write(value), ha="center", va="center", fontsize=7, color=colour
                    )
    return image


def colour_over(value: float, ends: tuple[float, float]) -> str:
    """Return the colour that is legible on the one of a value."""
    return LIGHT.over[step_of(value, *ends)]


def percents(value: float) -> str:
    """Return a number of percents, cut as in tables."""
    return percent(round(float(value) / 100, 12)).removesuffix(" %")


def label_ticks(set_ticks: Any, labels: Sequence[str]) -> None:
    """Set labels, of very many every second, third, ..."""
    step = -(-len(labels) // _MOST_LABELS) or 1
    set_ticks(range(0, len(labels), step), [*map(ending_of, labels[::step])], fontsize=8)


def ending_of(name: str) -> str:
    """Return a name that fits beside an axis: of a long one its end, which tells names apart."""
    return name if len(name) <= _LONGEST else f"…{name[-_LONGEST + 1 :]}"
