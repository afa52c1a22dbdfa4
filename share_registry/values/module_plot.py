"""The report of an adapter as a plot: where its bits and its errors are."""

from typing import TYPE_CHECKING

from share_registry import kinds
from share_registry.kinds import takes
from share_registry.look.heat_map import LEAST_SPREAD, ends_of
from share_registry.look.module_grid import bits_of, errors_of, grid_of
from share_registry.values.plot_frame import (
    Place,
    add_scale,
    draw_cells,
    dress,
    ensure_drawable,
    label_ticks,
    new_figure,
    percents,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from share_registry.values.cost_reports import AdapterReport


@takes(path=kinds.path)
def plot_modules(report: "AdapterReport", path: Place = None) -> "Figure":
    """Draw bits per parameter and relative error of dW of each module, by layer and projection.

    Args:
        report: With its modules, as `commit` and `show` return it.
        path: Where to save it; the ending says the format.

    Raises:
        NotFoundError: the report has no modules, as in a log.
        RefusedError: matplotlib is not installed, or has no such format.
        StoreError: the file cannot be written.
    """
    ensure_drawable(report.modules, "this report has no modules, those of show(...) have")
    grid = grid_of(module.module for module in report.modules)
    errors = {module: 100 * error for module, error in errors_of(report).items()}
    maps = (
        ("bits per parameter", "bits", bits_of(report), "{:.2f}".format),
        ("relative error of dW, %", "error", errors, percents),
    )
    width = min(max(2.6 + 0.5 * len(grid.columns), 4.2), 12.0)
    figure = new_figure(2 * width, min(max(1.6 + 0.3 * len(grid.rows), 2.6), 16.0))
    panels = figure.subplots(1, 2, squeeze=False)[0]
    for axes, (unit, name, values, write) in zip(panels, maps, strict=True):
        cells = [
            [None if module is None else values[module] for module in row] for row in grid.modules
        ]
        ends = ends_of([*values.values()], least=LEAST_SPREAD)
        image = draw_cells(axes, cells, ends, write)
        add_scale(figure, image, axes, unit)
        label_ticks(axes.set_xticks, grid.columns)
        label_ticks(axes.set_yticks, grid.rows)
        axes.tick_params(axis="x", rotation=30)
        dress(axes, f"{name} by layer and projection")
    return save_figure(figure, path)
