"""A log as a plot: the versions of each task, and which of them each alias stood for."""

from collections import defaultdict
from itertools import cycle
from typing import TYPE_CHECKING, Final

from share_registry import kinds
from share_registry.kinds import takes
from share_registry.look.histories import TaskHistory, histories, lives, stands
from share_registry.look.palette import LIGHT
from share_registry.look.units import count
from share_registry.values.plot_frame import (
    Place,
    dress,
    ending_of,
    ensure_drawable,
    new_figure,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from share_registry.values.commits import Log

# Tasks of one time line
_MOST_PANELS: Final = 8
# How far what holds now is drawn beyond the last commit, of all of them
_BEYOND: Final = 0.03
_BAR: Final = 0.62
# Inches of a panel without and of each lane, and between two names side by side
_PANEL: Final = 0.68
_LANE: Final = 0.3
_APART: Final = 0.34
_WIDTH: Final = 9.0


@takes(path=kinds.path)
def plot_log(log: "Log", path: Place = None) -> "Figure":
    """Draw the versions of each task and where its aliases pointed, commit by commit.

    A point is a version, hollow where a refit made it; a bar is the version that an alias stood
    for. A log of a task is that task alone. Of many tasks those with the most commits; each space
    has commits of its own. As `plot_spectra`, and NotFoundError where there is nothing to draw.
    """
    by_task = {place: history for place, history in histories(log).items() if history.length}
    ensure_drawable(by_task, "no commit of this log made a version or moved an alias")
    longest = sorted(by_task, key=lambda place: -by_task[place].length)[:_MOST_PANELS]
    tasks: dict[str, list[str]] = defaultdict(list)
    for space, task in sorted(longest):
        tasks[space].append(task)
    heights = {place: _PANEL + _LANE * (1 + len(by_task[place].moves)) for place in longest}
    groups = [sum(heights[space, task] for task in names) for space, names in tasks.items()]
    figure = new_figure(_WIDTH, sum(groups) + 0.4 * len(tasks))
    parts = figure.subfigures(len(tasks), 1, squeeze=False, height_ratios=groups)[:, 0]
    for part, (space, names) in zip(parts, tasks.items(), strict=True):
        ratios = [heights[space, task] for task in names]
        panels = part.subplots(len(names), 1, sharex=True, squeeze=False, height_ratios=ratios)
        numbers = [commit.number for commit in log if commit.space == space]
        for axes, task in zip(panels[:, 0], names, strict=True):
            _draw_history(axes, task, by_task[space, task], (min(numbers), max(numbers)))
        panels[-1, 0].set_xlabel(f"commit of {space}", color=LIGHT.muted)
    if more := len(by_task) - len(longest):
        said = f"{count(more, 'more task is', 'more tasks are')} not drawn"
        figure.supxlabel(said, fontsize=10, color=LIGHT.muted)
    return save_figure(figure, path)


def _draw_history(axes: "Axes", task: str, history: TaskHistory, ends: tuple[int, int]) -> None:
    """Draw the versions on top, and a lane for each alias below."""
    from matplotlib.ticker import MaxNLocator

    first, last = ends
    now = last + _BEYOND * (last - first + 1)
    aliases = sorted(history.moves)
    dress(axes, ending_of(task), grid=True)
    for start, end in lives(history):
        axes.hlines(0, start, now if end is None else end, color=LIGHT.muted, linewidth=1)
    _draw_versions(axes, history, apart=_APART / _WIDTH * (now - first + 1))
    for lane, (alias, colour) in enumerate(zip(aliases, cycle(LIGHT.series), strict=False), 1):
        for version, start, end in stands(history.moves[alias]):
            width = (now if end is None else end) - start
            axes.barh(lane, width, _BAR, start, color=LIGHT.panel, edgecolor=colour, linewidth=1.4)
            if width > _APART / _WIDTH * (now - first + 1):
                axes.annotate(
                    f"v{version}",
                    (start, lane),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    color=LIGHT.ink,
                )
    axes.set_yticks(range(1 + len(aliases)), ["versions", *map(ending_of, aliases)], fontsize=9)
    axes.set_ylim(len(aliases) + 0.5, -0.85)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("c{x:.0f}")
    axes.grid(visible=False, axis="y")


def _draw_versions(axes: "Axes", history: TaskHistory, *, apart: float) -> None:
    """Draw a point for every version, and its name where there is room."""
    numbers = [*history.versions]
    axes.plot(numbers, [0] * len(numbers), "o", color=LIGHT.accent, markersize=6.5, zorder=3)
    refits = [number for number in numbers if history.commits[number].kind == "refit"]
    axes.scatter(refits, [0] * len(refits), s=12, color=LIGHT.paper, zorder=4)
    dropped = [*history.ends]
    axes.scatter(dropped, [0] * len(dropped), s=36, marker="x", color=LIGHT.bad, zorder=4)
    free = float("-inf")
    for number in numbers:
        if number >= free:
            axes.annotate(
                f"v{history.versions[number]}",
                (number, 0),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=LIGHT.ink,
            )
            free = number + apart
