"""Pages of the log and of the tasks.

Together they are all there is, each once, whatever is committed between them; opening does not read
what is there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

import share_registry as sr
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.projection.apply import wipe
from share_registry.catalog.queries import task_pages
from share_registry.catalog.queries.log import LogQuery, log
from share_registry.catalog.queries.task_pages import TaskQuery, tasks
from share_registry.catalog.sql import pieces
from share_registry.errors import InvalidInputError
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from share_registry.values.commits import Commit
from share_registry.values.tasks import Task
from tests.catalog.growing import RARE, RARE_AUTHOR, SPACE, Growing
from tests.catalog.logs import Log
from tests.reliability.faults import Failing

EXAMPLES = 40
MOST = 2000
"""More than is ever listed here: pages that repeat themselves end."""
COMMITS, TASKS = 500, 60
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "a label": {"labels": {"team": "team-7"}},
    "two labels": {"labels": {"team": "team-7", "stage": "research"}},
    "a rare label": {"labels": {"ticket": RARE}},
    "no such label": {"labels": {"ticket": "nix"}},
    "an alias": {"alias": "prod"},
    "a pattern": {"name": "*3*"},
    "a pattern and a label": {"name": "task-0003*", "labels": {"stage": "research"}},
    "then": {"at": "c200"},
    "a label then": {"at": "c300", "labels": {"team": "team-3"}},
    "a label at a time": {"at": "2026-11-01T04:00", "labels": {"stage": "research"}},
    "an alias at a time": {"at": "2026-11-01T04:00", "alias": "prod"},
}
LOGS: dict[str, dict[str, Any]] = {
    "all": {},
    "a kind": {"kind": "alias"},
    "an author": {"author": "author-3"},
    "a rare author": {"author": RARE_AUTHOR},
    "a task": {"task": "task-00000"},
    "a task and a kind": {"task": "task-00000", "kind": "absorb"},
    "some time": {"since": "2026-11-01T03:00", "until": "2026-11-01T05:00"},
}


@pytest.fixture(scope="module")
def grown() -> Iterator[Session]:
    growing = Growing(commits=COMMITS, tasks=TASKS)
    with Catalog.in_memory() as catalog:
        growing.grow(catalog, COMMITS)
        with catalog.begin() as session:
            yield session


def pages_of_log(
    session: Session, size: int, between: Callable[[], None] = lambda: None, **asked: Any
) -> list[Commit]:
    commits: list[Commit] = []
    while True:
        before = f"{commits[-1].space}/@c{commits[-1].number}" if commits else None
        page = log(session, LogQuery(limit=size, before=before, **asked))
        commits += page
        assert len(commits) <= MOST
        if len(page) < size:
            return commits
        between()


def pages_of_tasks(
    session: Session, size: int, between: Callable[[], None] = lambda: None, **asked: Any
) -> list[Task]:
    listed: list[Task] = []
    while True:
        page = tasks(
            session, TaskQuery(limit=size, after=listed[-1].ref if listed else None, **asked)
        )
        listed += page
        assert len(listed) <= MOST
        if len(page) < size:
            return listed
        between()


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("name", LOGS)
def test_pages_of_a_log_are_together_what_is_listed_at_once(
    grown: Session, name: str, size: int
) -> None:
    at_once = log(grown, LogQuery(space=SPACE, limit=None, **LOGS[name]))
    assert pages_of_log(grown, size, space=SPACE, **LOGS[name]) == at_once
    assert at_once == pages_of_log(grown, size, **LOGS[name])


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("name", FILTERS)
def test_pages_of_tasks_are_together_what_is_listed_at_once(
    grown: Session, name: str, size: int
) -> None:
    at_once = tasks(grown, TaskQuery(space=SPACE, **FILTERS[name]))
    assert pages_of_tasks(grown, size, space=SPACE, **FILTERS[name]) == at_once
    assert bool(at_once) == (name != "no such label")


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("limit", [None, 1, 6, 50])
@pytest.mark.parametrize("name", FILTERS)
def test_how_many_are_looked_at_together_changes_no_page(
    grown: Session, name: str, limit: int | None, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tasks(grown, TaskQuery(space=SPACE, **FILTERS[name]))
    assert [task.name for task in expected] == sorted(task.name for task in expected)
    assert all(task.labels.items() >= FILTERS[name].get("labels", {}).items() for task in expected)
    monkeypatch.setattr(task_pages, "_AT_ONCE", 4)
    monkeypatch.setattr(task_pages, "_FEW", few)
    assert tasks(grown, TaskQuery(space=SPACE, limit=limit, **FILTERS[name])) == expected[:limit]
    for last in expected[:: max(1, len(expected) // 4)]:
        following = [task for task in expected if task.name > last.name]
        assert (
            tasks(grown, TaskQuery(space=SPACE, limit=limit, after=last.ref, **FILTERS[name]))
            == following[:limit]
        )


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("limit", [None, 5])
def test_a_filter_leaves_out_what_a_listing_then_shows_without_it(
    limit: int | None, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two spaces of different lengths at one time, names in another order than tasks came."""
    monkeypatch.setattr(task_pages, "_AT_ONCE", 4)
    monkeypatch.setattr(task_pages, "_FEW", few)
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        for space, step in (("ant", 1), ("bee", 7)):
            log = Log(space=space, step=timedelta(hours=step))
            log.create()
            for number in range(45):
                version = number // 15 + 1
                log.absorb(
                    f"t{7 * number % 15:02}",
                    version,
                    labels={"team": "red" if (number + version) % 3 else "blue"},
                )
                if number % 4 == 0:
                    log.alias(f"t{7 * number % 15:02}", "prod", version)
            log.apply(session)
        for at in (None, "2026-11-02T00:30", "2026-11-03T12:00"):
            everything = tasks(session, TaskQuery(at=at))
            assert len({task.space for task in everything}) == 2
            for team in ("red", "blue"):
                some = tasks(session, TaskQuery(at=at, labels={"team": team}, limit=limit))
                assert some == [task for task in everything if task.labels["team"] == team][:limit]
            assert (
                tasks(session, TaskQuery(at=at, alias="prod", limit=limit))
                == [task for task in everything if "prod" in task.aliases][:limit]
            )


def test_a_task_that_is_dropped_while_a_page_is_made_is_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Statements of one transaction see what others commit between them (PostgreSQL).

    A page stays as long as it was found.
    """
    records, real = Log(space="ant"), pieces
    records.create()
    for number in range(4):
        records.absorb(f"t{number}", 1)
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        records.apply(session)

        def drop_then_read(chosen: Any) -> Any:
            monkeypatch.setattr(task_pages, "pieces", real)
            records.drop("t1").apply(session)
            return real(chosen)

        monkeypatch.setattr(task_pages, "pieces", drop_then_read)
        assert [task.name for task in tasks(session, TaskQuery(limit=3))] == ["t0", "t1", "t2"]
        assert [task.name for task in tasks(session, TaskQuery(limit=3))] == ["t0", "t2", "t3"]


def commit_somewhere(session: Session, logs: Sequence[Log], choose: Callable[[int], int]) -> None:
    """Make a commit somewhere: a new task, a version of one, a task dropped."""
    records = logs[choose(len(logs))]
    versions = Counter(
        task
        for entry in records.entries
        for task in getattr(entry.record, "versions", {})
        or [body.task for body in getattr(entry.record, "tasks", ())]
    )
    name = f"t{choose(30)}"
    if versions[name] and choose(3) == 0 and not name.startswith("t1"):
        live = [
            entry.record.kind
            for entry in records.entries
            if repr(name) in str(entry.record.model_dump())
        ][-1] != "drop"
        entry = records.drop(name) if live else records.absorb(name, versions[name] + 1)
    else:
        entry = records.absorb(name, versions[name] + 1)
    entry.apply(session)


def test_commits_between_pages_neither_hide_nor_repeat_anything() -> None:
    catalog = Catalog.in_memory()

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.integers(0, 25), st.integers(1, 6), st.integers(0, 3), st.booleans())
    def check(
        data: st.DataObject, commits: int, size: int, meanwhile: int, one_space: bool
    ) -> None:
        logs = [
            Log(space="ant", step=timedelta(hours=1)),
            Log(space="bee", step=timedelta(minutes=90)),
        ]

        def more(count: int) -> None:
            for _ in range(count):
                commit_somewhere(session, logs, lambda most: data.draw(st.integers(0, most - 1)))

        with catalog.begin(write=True) as session:
            wipe(session)
            for each in logs:
                each.create().apply(session)
            more(commits)
            asked: dict[str, Any] = {"space": "ant"} if one_space else {}
            before = [
                (commit.space, commit.number)
                for commit in log(session, LogQuery(limit=None, **asked))
            ]
            places = [
                (commit.space, commit.number)
                for commit in pages_of_log(session, size, lambda: more(meanwhile), **asked)
            ]
            assert len(places) == len(set(places))
            assert [place for place in places if place in set(before)] == before
            assert not one_space or places == before
            stays = [
                task.ref.partition("@")[0]
                for task in tasks(session, TaskQuery(**asked))
                if task.name.startswith("t1")
            ]
            listed = [
                task.ref.partition("@")[0]
                for task in pages_of_tasks(session, size, lambda: more(meanwhile), **asked)
            ]
            assert listed == sorted(set(listed))
            assert [ref for ref in stays if ref not in listed] == []

    with catalog:
        check()


def test_the_last_of_a_page_leads_to_the_next(registry: sr.Registry) -> None:
    space = registry.create_space("base")
    for budget in range(1, 8):
        space.set_policy(sr.Policy(budget=budget / 100))
    first = registry.log(limit=3)
    assert [commit.number for commit in registry.log(limit=3, before=first[-1])] == [5, 4, 3]
    assert [commit.number for commit in space.log(limit=3, before="@c6")] == [5, 4, 3]
    assert [commit.number for commit in sr.iterate(registry.log, limit=3)] == [
        8,
        7,
        6,
        5,
        4,
        3,
        2,
        1,
    ]
    assert [
        commit.number for commit in sr.iterate(space.log, limit=3, before=5, kind="policy")
    ] == [
        4,
        3,
        2,
    ]
    assert list(sr.iterate(registry.tasks)) == []
    with pytest.raises(InvalidInputError):
        list(sr.iterate(registry.tags))


@pytest.mark.parametrize(
    "asked",
    [
        {"limit": 0},
        {"limit": -1},
        {"after": "base/@c3"},
        {"after": "no name"},
        {"after": 3},
        {"limit": "all"},
    ],
)
def test_a_page_that_is_none_is_refused(registry: sr.Registry, asked: dict[str, Any]) -> None:
    registry.create_space("base")
    with pytest.raises(InvalidInputError):
        registry.tasks(**asked)


def test_a_task_without_a_space_ends_no_page_where_there_are_several(registry: sr.Registry) -> None:
    registry.create_space("base")
    assert registry.tasks(after="cola") == []
    registry.create_space("other")
    assert registry.tasks(after="base/cola") == registry.tasks("base", after="cola") == []
    with pytest.raises(InvalidInputError):
        registry.tasks(after="cola")
    with pytest.raises(InvalidInputError):
        registry.tasks("base", after="other/cola")


def test_opening_asks_as_little_of_a_long_log_as_of_a_short_one(tmp_path: Path) -> None:
    asked = []
    for commits in (3, 40):
        with sr.Registry.open(tmp_path / str(commits)) as registry:
            space = registry.create_space("base")
            for number in range(1, commits):
                space.set_policy(sr.Policy(budget=number / 100))
        system, statements = Failing(lambda _: None), Counter[str]()

        def see(*arguments: object, statements: Counter[str] = statements) -> None:
            statements[str(arguments[2])] += 1

        event.listen(Engine, "before_cursor_execute", see)
        try:
            context = open_context(
                tmp_path / str(commits),
                store=None,
                space=None,
                mode="w",
                outside=Outside(system=system),
            )[0]
            with context.reading():
                pass
            context.close()
        finally:
            event.remove(Engine, "before_cursor_execute", see)
        asked.append((Counter(system.calls), statements))
    assert asked[0] == asked[1]
    assert asked[0][0]["read"] < 40
