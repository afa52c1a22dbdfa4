"""Plots need no display or pyplot, are saved where asked, and say where matplotlib is missing."""

import re
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import share_registry as sr
from share_registry.names import CommitNumber, Digest, SpaceName, Version
from share_registry.registry.analysis.analyze import analyze
from share_registry.values.analyses import (
    Analysis,
)
from share_registry.values.commits import Commit, Log
from share_registry.values.sheet import as_text
from tests.look import samples
from tests.registry.families import independent, one_start

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyze({**one_start(3), **independent(2)}, budgets=(0.05, 0.2))


@pytest.mark.parametrize("tasks", [1, 6, 40])
def test_a_forgetting_matrix_is_drawn_whatever_its_size(tmp_path: Path, tasks: int) -> None:
    path = tmp_path / "matrix.png"
    figure = samples.retention(tasks).plot(path)
    assert path.read_bytes().startswith(PNG)
    assert figure.axes[0].get_xlabel().startswith("commit that changed a task")


@pytest.mark.parametrize("width", [None, 60, 80])
def test_as_text_a_long_matrix_keeps_the_first_commit_and_the_newest(width: int | None) -> None:
    header, row = as_text(samples.retention(20).sheet(), width=width).splitlines()[4:6]
    assert len(row) <= (width or 200)
    first, gap, *newest = header.removesuffix("last - first").split()[1:]
    assert (first, gap) == ("c2", "…")
    assert newest == [f"c{number}" for number in range(22 - len(newest), 22)]
    assert len(newest) > 1


def test_where_there_is_nothing_to_draw_that_is_said_and_no_file_is_written(tmp_path: Path) -> None:
    for empty in (samples.retention(0), Log(commits=())):
        with pytest.raises(sr.NotFoundError, match="nothing to draw"):
            empty.plot(tmp_path / "empty.png")
    assert [*tmp_path.iterdir()] == []


def test_errors_under_a_budget_are_said_to_be_alike_and_never_look_like_it() -> None:
    matrix = samples.retention(2)
    errors = iter((0.0247, 0.02499, 0.0248))
    rows = tuple(
        replace(row, cells=tuple(cell and replace(cell, error=next(errors)) for cell in row.cells))
        for row in matrix.rows
    )
    plot, colours = replace(matrix, rows=rows).plot().axes
    assert {text.get_text() for text in plot.texts} == {"2.47", "2.49", "2.48"}
    assert colours.get_ylabel().endswith("all alike: 2.47 to 2.49")
    assert "alike" not in samples.retention(6).plot().axes[1].get_ylabel()


def test_bounds_are_marked_as_such() -> None:
    assert samples.retention(6).plot().axes[0].get_xlabel().endswith("(corner: upper bound)")
    assert len(samples.retention(6).plot().axes[0].patches) == 6
    assert not samples.retention(2).plot().axes[0].patches


def test_a_budget_plot_has_its_lines_and_the_bound(analysis: Analysis, tmp_path: Path) -> None:
    axes = analysis.plot_budget(tmp_path / "budget.svg").axes[0]
    assert [line.get_label() for line in axes.get_lines()] == [
        "Gaussian bound, no sharing",
        "alone",
        "references to earlier adapters",
        "joint basis",
    ]
    assert np.asarray(axes.get_lines()[1].get_ydata()).tolist() == [
        forecast.bits_alone for forecast in analysis.forecasts
    ]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "error budget, % of |dW|",
        "bits per parameter",
    )
    assert (tmp_path / "budget.svg").read_text().startswith("<?xml")


def test_a_spectrum_plot_has_a_row_for_every_module_and_a_panel_for_each_side(
    analysis: Analysis, tmp_path: Path
) -> None:
    figure = analysis.plot_spectra(tmp_path / "spectra.png")
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == [
        "A of 5 adapters",
        "B of 5 adapters",
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "0.proj",
        "1.proj",
        "2.proj",
    ]


def test_an_analysis_without_spectra_is_drawn_empty(analysis: Analysis) -> None:
    replace(analysis, spectra=()).plot()


def test_both_plots_of_an_analysis_fit_one_figure(analysis: Analysis, tmp_path: Path) -> None:
    figure = analysis.plot(tmp_path / "both.png")
    assert [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()] == [
        "directions k (mark: 90 %)"
    ] * 2 + ["error budget, % of |dW|"]


def test_a_metric_that_was_asked_for_is_what_is_drawn() -> None:
    matrix = samples.retention(3)
    rows = tuple(
        replace(
            row, cells=tuple(cell and replace(cell, metric=0.9, bound=True) for cell in row.cells)
        )
        for row in matrix.rows
    )
    axes = replace(matrix, metric="accuracy", rows=rows).plot().axes
    assert axes[0].get_title(loc="left") == "tiny: accuracy by task and commit"
    assert {text.get_text() for text in axes[0].texts} == {"0.9"}
    assert (axes[1].get_ylabel(), len(axes[0].patches)) == ("accuracy", 0)


def test_a_log_of_several_spaces_has_panels_and_an_axis_for_each() -> None:
    commits = tuple(
        Commit(
            number=CommitNumber(number),
            id=Digest("0" * 64),
            parent=Digest("0" * 64),
            kind="absorb",
            space=SpaceName(space),
            time=datetime.now(UTC),
            key="k",
            refs={task: f"{space}/{task}@v1" for task in ("one", "two")},
            versions={"one": Version(1), "two": Version(1)},
        )
        for space, number in (("long", 40), ("short", 2))
    )
    axes = Log(commits=commits).plot().axes
    assert [panel.get_title(loc="left") for panel in axes] == ["one", "two"] * 2
    assert [panel.get_xlabel() for panel in axes] == [
        *("", "commit of long"),
        *("", "commit of short"),
    ]
    assert [[np.ravel(line.get_xdata())[0] for line in panel.lines] for panel in axes] == [
        [40],
        [40],
        [2],
        [2],
    ]
    assert axes[0].get_xlim() == axes[1].get_xlim() != axes[2].get_xlim() == axes[3].get_xlim()


def test_a_log_has_a_lane_for_versions_and_one_for_each_alias() -> None:
    axes = samples.history().plot().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["versions", "prod"]
    # v1 from c3 to c5, v2 from c5 to c6
    bars = [bar.get_path().get_extents(bar.get_transform()) for bar in axes.patches]
    spans = [axes.transData.inverted().transform_bbox(bar).intervalx for bar in bars]
    assert np.round(spans, 6).tolist() == [[3, 5], [5, 6]]
    assert np.ravel(axes.lines[0].get_xdata()).tolist() == [2, 4, 8]
    assert [text.get_text() for text in axes.texts] == ["v1", "v2", "v3", "v1", "v2"]
    assert axes.get_legend() is None


def test_of_versions_side_by_side_only_some_are_named() -> None:
    commits = [samples.commit(number, "absorb", version=number - 1) for number in range(2, 302)]
    axes = Log(commits=tuple(reversed(commits))).plot().axes[0]
    assert np.size(axes.lines[0].get_xdata()) == 300
    assert 10 < len(axes.texts) < 40


def test_a_report_is_drawn_by_layer_and_projection_and_cut_as_in_tables() -> None:
    modules = {f"layers.{layer}.{name}": 0.02799 for layer in (0, 10, 2) for name in ("q", "v")}
    bits, errors, *_ = samples.report(modules).plot().axes
    assert [label.get_text() for label in bits.get_yticklabels()] == ["0", "2", "10"]
    assert [label.get_text() for label in errors.get_xticklabels()] == ["q", "v"]
    assert {text.get_text() for text in errors.texts} == {"2.79"}
    assert {text.get_text() for text in bits.texts} == {"3.00"}
    with pytest.raises(sr.NotFoundError, match="no modules"):
        samples.report({}).plot()


def test_a_legend_stands_outside_of_the_data(analysis: Analysis) -> None:
    figure = analysis.plot_budget()
    figure.draw_without_rendering()
    axes = figure.axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0


@pytest.mark.parametrize("draw", ["plot", "plot_spectra", "plot_budget"])
def test_without_matplotlib_a_plot_is_refused_by_name(
    analysis: Analysis, monkeypatch: pytest.MonkeyPatch, draw: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(sr.RefusedError, match="plots need matplotlib") as refused:
        getattr(analysis, draw)()
    assert "share-registry[plot]" in refused.value.hint
    with pytest.raises(sr.RefusedError):
        samples.retention(2).plot()


def test_a_format_that_is_none_is_refused_and_a_lost_directory_is_said(
    analysis: Analysis, tmp_path: Path
) -> None:
    with pytest.raises(sr.RefusedError):
        analysis.plot(tmp_path / "plot.nonsense")
    with pytest.raises(sr.StoreError):
        analysis.plot(tmp_path / "absent" / "plot.png")


@pytest.mark.parametrize("ending", ["pdf", "png", "svg"])
def test_the_same_plot_gives_the_same_file(tmp_path: Path, ending: str) -> None:
    matrix = samples.retention(2)
    first, second = tmp_path / f"first.{ending}", tmp_path / f"second.{ending.upper()}"
    for path in (first, second):
        matrix.plot(path)
    assert first.read_bytes() == second.read_bytes()
    assert not re.search(rb"<dc:date>|/CreationDate", first.read_bytes())


def test_without_an_ending_a_plot_is_a_png(tmp_path: Path) -> None:
    samples.retention(2).plot(tmp_path / "matrix")
    assert (tmp_path / "matrix.png").read_bytes().startswith(PNG)


def test_a_plot_that_cannot_be_written_whole_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "matrix.png"
    samples.retention(2).plot(path)
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(sr.StoreError):
            samples.retention(6).plot(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_plots_leave_pyplot_alone() -> None:
    code = (
        "from tests.look import samples; import sys; "
        "samples.retention(3).plot(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_analysing_imports_no_matplotlib() -> None:
    code = (
        "import share_registry.registry.analysis.analyze, share_registry.registry.audit.retention, "
        "sys; assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
