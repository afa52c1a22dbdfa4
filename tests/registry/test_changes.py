"""What changed between two moments, one row a task."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from tests.conftest import url_of
from tests.registry.planted import write_planted
from tests.registry.purging import continued

START = datetime(2026, 11, 1, tzinfo=UTC)


class Clock(Outside):
    """A clock that is set."""

    present = START

    def now(self) -> datetime:
        return self.present


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 4, modules=2, width=64)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite where a test does not ask for another."""
    return url_of(request, tmp_path) if hasattr(request, "param") else f"sqlite:///{tmp_path}/c"


@pytest.fixture
def registry(tmp_path: Path, clock: Clock, url: str) -> Iterator[sr.Registry]:
    context, _ = open_context(url, store=tmp_path / "store", space=None, mode="c", outside=clock)
    with sr.Registry(context) as registry:
        yield registry


@pytest.fixture
def space(registry: sr.Registry, clock: Clock, folders: dict[str, Path]) -> sr.Registry:
    """Four tasks in a week, and what happened to them in the next one."""
    space = registry.create_space("tiny", base_model="acme/tiny")
    for name, folder in folders.items():
        space.commit(folder, task=name, author="ada")
    space.set_alias("t00@v1", "prod")
    space.set_alias("t01@v1", "prod")
    space.tag("week-1", "@c7")
    clock.present = START + timedelta(days=10)
    space.commit(continued(folders["t00"], 1), task="t00", author="bob")
    space.commit(continued(folders["t00"], 2), task="t00", author="eve")
    space.set_alias("t00@v3", "prod", author="ada")
    space.drop("t02")
    space.rename("t03", "later")
    space.commit(continued(folders["t03"], 3), task="new")
    clock.present = START + timedelta(days=14)
    return space


@pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)
def test_each_task_that_a_commit_was_about_is_a_row(space: sr.Registry) -> None:
    changes = space.changes("7d")
    rows = {row.task: row for row in changes.tasks}
    assert {task: (row.status, row.before, row.after) for task, row in rows.items()} == {
        "tiny/t00": ("changed", "tiny/t00@v1", "tiny/t00@v3"),
        "tiny/t02": ("dropped", "tiny/t02@v1", None),
        "tiny/later": ("same", "tiny/later@v1", "tiny/later@v1"),
        "tiny/new": ("new", None, "tiny/new@v1"),
    }
    assert changes.unchanged == 1
    first = rows["tiny/t00"]
    assert dict(first.aliases) == {"prod": (1, 3)}
    assert (first.commits, first.authors) == (3, ("bob", "eve", "ada"))
    assert first.time == START + timedelta(days=10)


def test_the_change_of_dw_is_that_of_a_diff(space: sr.Registry) -> None:
    (row,) = (row for row in space.changes("7d").tasks if row.task == "tiny/t00")
    (difference,) = space.diff("t00@v1", "t00@v3").tasks
    assert row.change == difference.change
    assert row.change is not None
    assert row.change > 0
    assert {row.change for row in space.changes("7d", compare=False).tasks} == {None}


MOMENTS: tuple[tuple[str | datetime, str | datetime | None, list[str]], ...] = (
    ("2026-11-01", None, ["later", "new", "t00", "t01"]),
    ("2026-11-11", "2026-11-11", ["later", "new", "t00", "t02"]),
    ("2026-11-12", None, []),
    ("2w", "2026-11-02", ["later", "t00", "t01", "t02"]),
    ("@week-1", "latest", ["later", "new", "t00", "t02"]),
    ("c7", "@c9", ["t00"]),
    (START - timedelta(days=400), START - timedelta(days=300), []),
)


def test_moments_are_dates_times_lengths_commits_and_tags(space: sr.Registry) -> None:
    for since, until, tasks in MOMENTS:
        changes = space.changes(since, until=until, compare=False)
        # a task is called as it is at present
        assert [row.task.removeprefix("tiny/") for row in changes.tasks] == tasks, since


def test_all_spaces_are_asked_where_none_is_named(
    registry: sr.Registry, space: sr.Registry, folders: dict[str, Path]
) -> None:
    registry.create_space("other", base_model="acme/other").commit(
        folders["t01"], task="t01", allow_base_mismatch=True
    )
    changes = registry.changes("7d", compare=False)
    assert [row.task for row in changes.tasks if row.status == "new"] == [
        "other/t01",
        "tiny/new",
    ]
    assert space.changes("7d", compare=False).tasks == tuple(
        row for row in changes.tasks if row.task.startswith("tiny/")
    )
    with pytest.raises(sr.InvalidInputError, match="is a commit of one space"):
        registry.changes("@c3")


def test_a_version_that_was_removed_since_has_no_change_of_dw(space: sr.Registry) -> None:
    space.expire(["t00@v1"], keep_tagged=False, dry_run=False)
    (row,) = (row for row in space.changes("7d").tasks if row.task == "tiny/t00")
    assert (row.before, row.after, row.change) == ("tiny/t00@v1", "tiny/t00@v3", None)


def test_moments_in_the_wrong_order_are_refused(space: sr.Registry) -> None:
    with pytest.raises(sr.InvalidInputError, match="is before c9"):
        space.changes("@c9", until="@c8")
    with pytest.raises(sr.NotFoundError, match="no tag '7x'"):
        space.changes("7x")
    with pytest.raises(sr.NotFoundError, match="c99"):
        space.changes("@c99")


def test_what_is_shown_says_old_and_new_versions_moves_and_authors(space: sr.Registry) -> None:
    text = str(space.changes("7d", compare=False))
    assert text.splitlines()[0] == "7d .. latest: 4 tasks changed"
    assert "prod v1 -> v3" in text
    assert "bob, eve, ada" in text
    assert text.splitlines()[-1] == "1 task is as before"


def test_a_version_that_repeats_another_differs_in_nothing(
    registry: sr.Registry, folders: dict[str, Path]
) -> None:
    (task, folder), (_, other), *_ = sorted(folders.items())
    registry.commit(folder, task=task)
    registry.commit(other, task=task)
    registry.restore(f"{task}@v1")
    (same,) = registry.diff(f"{task}@v1", f"{task}@v3").tasks
    assert (same.status, same.change, {*same.modules.values()}) == ("same", 0.0, {0.0})
    assert registry.diff(f"{task}@v2", f"{task}@v3").differs
