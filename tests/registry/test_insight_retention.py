"""Retention: rows stay flat where nothing changes a task, and show what changed one."""

import json
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.registry.audit.retention import retention
from share_registry.values.documents import document
from tests.registry.families import independent, shared_directions


@pytest.fixture
def two_tasks(registry: sr.Registry) -> sr.Registry:
    """Two tasks; the first is committed again, within another budget; the second is dropped."""
    first, second, third = independent(3).values()
    registry.commit(first, task="cola", budget=0.1, metrics={"accuracy": 0.8})  # c2
    registry.commit(second, task="sst2", budget=0.05)  # c3
    registry.annotate("cola", labels={"team": "search"})  # c4
    registry.commit(third, task="cola", budget=0.2, metrics={"accuracy": 0.7})  # c5
    registry.drop("sst2")  # c6
    registry.commit(third, task="cola", budget=0.01, metrics={"accuracy": 0.9})  # c7
    return registry


def test_columns_are_the_commits_that_changed_a_task(two_tasks: sr.Registry) -> None:
    matrix = retention(two_tasks.context, None)
    assert [(commit.number, commit.kind) for commit in matrix.commits] == [
        (2, "absorb"),
        (3, "absorb"),
        (5, "absorb"),
        (6, "drop"),
        (7, "absorb"),
    ]
    assert [row.task for row in matrix.rows] == ["cola", "sst2"]


def test_cells_have_the_recorded_errors_of_the_version_at_each_commit(
    two_tasks: sr.Registry,
) -> None:
    row = retention(two_tasks.context, None).rows[0]
    errors = [two_tasks.show(f"cola@v{version}").reports["cola"].error for version in (1, 2, 3)]
    assert [cell.error if cell else None for cell in row.cells] == [
        errors[0],
        errors[0],
        errors[1],
        errors[1],
        errors[2],
    ]
    assert [cell.ref.partition("@")[2] if cell else "" for cell in row.cells] == [
        "v1",
        "v1",
        "v2",
        "v2",
        "v3",
    ]
    assert [cell.made for cell in row.cells if cell] == [True, False, True, False, True]


def test_a_task_has_no_cell_before_it_is_there_and_after_it_is_dropped(
    two_tasks: sr.Registry,
) -> None:
    row = retention(two_tasks.context, None).rows[1]
    assert [cell is None for cell in row.cells] == [True, False, False, True, True]


def test_a_task_that_nobody_touches_is_retained(registry: sr.Registry) -> None:
    for name, adapter in independent(4).items():
        registry.commit(adapter, task=name)
    matrix = retention(registry.context, None)
    assert matrix.transfer == 0.0
    for row in matrix.rows:
        assert len({cell.error for cell in row.cells if cell}) == 1
        assert (row.transfer, row.first) == (0.0, row.last)


def test_transfer_is_since_the_adapter_that_the_task_stands_for_was_handed_in(
    two_tasks: sr.Registry,
) -> None:
    row = retention(two_tasks.context, None).rows[0]
    v2, v3 = (two_tasks.show(f"cola@v{version}").reports["cola"].error for version in (2, 3))
    assert (row.first, row.last) == (v2, v3)
    assert row.transfer == pytest.approx(v3 - v2)
    assert row.worst == v2


def test_a_fixed_basis_forgets_and_the_matrix_shows_it(registry: sr.Registry) -> None:
    registry.create_space("tiny", base_model="acme/tiny", policy=sr.Policy.share(k=6))
    for name, adapter in independent(4).items():
        registry.commit(adapter, task=name, metrics={"accuracy": 0.9})
    matrix = retention(registry.context, None)
    oldest, newest = matrix.rows[0], matrix.rows[-1]
    errors = [cell.error for cell in oldest.cells if cell]
    assert errors == sorted(errors)
    assert errors[0] < 0.01 < 0.5 < errors[-1]
    assert oldest.transfer == pytest.approx(errors[-1] - errors[0])
    assert [cell.bound for cell in oldest.cells if cell][-1]
    assert newest.transfer == 0.0
    assert matrix.transfer > 0.3
    assert "<= " in str(matrix)
    assert {commit.kind for commit in matrix.commits} == {"absorb", "refit"}


def test_a_default_refit_moves_no_task(registry: sr.Registry) -> None:
    for name, adapter in shared_directions(6).items():
        registry.commit(adapter, task=name)
    before = retention(registry.context, None)
    registry.refit(max_rank=6)
    assert retention(registry.context, None) == before


def test_a_metric_is_shown_beside_the_error(two_tasks: sr.Registry) -> None:
    matrix = retention(two_tasks.context, None, metric="accuracy")
    assert [cell.metric if cell else None for cell in matrix.rows[0].cells] == [
        0.8,
        0.8,
        0.7,
        0.7,
        0.9,
    ]
    assert matrix.rows[0].metric_transfer == pytest.approx(0.1)
    assert matrix.metric_transfer == pytest.approx(0.1)
    assert matrix.rows[1].metric_transfer is None
    assert "accuracy, last - first  +0.1" in str(matrix)
    changes = [line.split()[-1] for line in str(matrix).splitlines()[-len(matrix.rows) :]]
    assert changes == ["+0.1", "-"]


def test_a_metric_that_was_corrected_counts_as_it_is_now(two_tasks: sr.Registry) -> None:
    two_tasks.annotate("cola@v1", metrics={"accuracy": 0.5})
    assert retention(two_tasks.context, None, metric="accuracy").rows[
        0
    ].metric_transfer == pytest.approx(0.4)


def test_a_renamed_task_stays_one_row(two_tasks: sr.Registry) -> None:
    two_tasks.rename("cola", "acceptability")
    assert [row.task for row in retention(two_tasks.context, None).rows] == [
        "acceptability",
        "sst2",
    ]


def test_an_empty_space_has_an_empty_matrix(registry: sr.Registry) -> None:
    registry.create_space("empty", base_model="acme/tiny")
    matrix = retention(registry.context, "empty")
    assert (matrix.rows, matrix.commits, matrix.mean, matrix.worst) == ((), (), 0.0, 0.0)
    assert "0 tasks" in str(matrix)


def test_a_metric_that_nothing_has_is_not_found(two_tasks: sr.Registry) -> None:
    with pytest.raises(sr.NotFoundError, match="nope") as caught:
        retention(two_tasks.context, None, metric="nope")
    assert "accuracy" in caught.value.hint


def test_a_space_that_is_not_there_is_not_found(two_tasks: sr.Registry) -> None:
    with pytest.raises(sr.NotFoundError):
        retention(two_tasks.context, "absent")


def test_text_html_and_json(two_tasks: sr.Registry, tmp_path: Path) -> None:
    matrix = retention(two_tasks.context, None, metric="accuracy")
    assert "cola" in str(matrix)
    assert "<table>" in matrix._repr_html_()
    assert repr(matrix) == "<Retention tiny: 2 tasks over 5 commits>"
    assert json.loads(json.dumps(document(matrix), allow_nan=False))["rows"][1]["cells"][0] is None


def test_a_long_history_is_shown_by_its_ends(registry: sr.Registry) -> None:
    for name, adapter in independent(16).items():
        registry.commit(adapter, task=name)
    shown = str(retention(registry.context, None))
    assert "16 tasks over 16 commits" in shown
    first, between, *newest = next(line for line in shown.splitlines() if "c17" in line).split()[1:]
    assert (first, between, newest[-4:]) == ("c2", "…", ["c17", "last", "-", "first"])
    assert "c3" not in newest


def test_of_many_the_newest_commits_are_given_and_the_tasks_that_changed_last(
    two_tasks: sr.Registry,
) -> None:
    whole = retention(two_tasks.context, None)
    last = retention(two_tasks.context, None, most=(9, 2))
    assert last.commits == whole.commits[-2:]
    assert [row.task for row in last.rows] == ["cola"]
    assert last.rows[0].cells == whole.rows[0].cells[-2:]
    assert [row.task for row in retention(two_tasks.context, None, most=(1, 9)).rows] == ["cola"]
    assert retention(two_tasks.context, None, most=(2, 5)) == whole
