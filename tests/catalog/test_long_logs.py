"""Long logs: what each measured question takes does not grow with the log.

The measured catalogs are what the projection makes of records.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import pytest
from sqlalchemy.orm import Session

from benchmarks.catalog import QUESTIONS, Asked, draw
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.values.task_version import TaskVersion
from tests.catalog.growing import SPACE, STEP, Growing, copy
from tests.catalog.logs import Log, Logged
from tests.catalog.rows import dump

SHORT, LONG = 600, 2400
TASKS_PER_COMMIT = 4
"""Commits for each task: in the short log and in the long one a task has as many versions."""
STEPS_EACH = 10
"""Instructions of SQLite's machine between two counts."""
GROWTH = 1.5
"""How much more a question may take, for each thing it answers with, in a log four times as long.

What it is about is drawn anew in each, and differs.
"""
ONCE = {"tasks of a frequent label": 50.0}
"""What one look at the tasks that have a label may take beside.

At up to 1,000 of them, and with a look at 150 and at 600 of them here.
"""
ROUNDS = 8
NAMED = "task-00003"
"""A task that is live under this name in both logs, with about as many versions."""
WALKS_SPACES = {"sr_spaces"}
"""Tables that may be read whole: one row a base model."""


def grow_catalog(commits: int) -> Catalog:
    catalog = Catalog.in_memory("store")
    Growing(commits=commits, tasks=commits // TASKS_PER_COMMIT).grow(catalog, commits)
    return catalog


@pytest.fixture(scope="module")
def catalogs() -> Iterator[tuple[Catalog, Catalog]]:
    both = grow_catalog(SHORT), grow_catalog(LONG)
    yield both
    for catalog in both:
        catalog.close()


@contextmanager
def counting(session: Session) -> Iterator[Callable[[], int]]:
    """Count, in tens, the instructions that SQLite runs."""
    seen: list[int] = []
    driver = session.connection().connection.driver_connection
    assert driver is not None
    driver.set_progress_handler(lambda: seen.append(0), STEPS_EACH)
    try:
        yield lambda: len(seen)
    finally:
        driver.set_progress_handler(None, 0)


def count_steps(catalog: Catalog, name: str) -> float:
    """Return what a question takes in the mean of several rounds for each thing it answers with."""
    spent, answered = 0, ROUNDS
    for seed in range(ROUNDS):
        with catalog.begin(write=True) as session:
            asked = draw(session, Random(seed))
            with counting(session) as count:
                answer = QUESTIONS[name](session, asked)
            session.rollback()
        spent, answered = (
            spent + count(),
            answered + (len(answer) if isinstance(answer, list) else 1),
        )
    return spent / answered


def plans(session: Session, name: str, asked: Asked) -> list[str]:
    """Return the lines of the query plans of a question's statements."""
    driver = session.connection().connection.driver_connection
    assert driver is not None
    seen: list[str] = []
    driver.set_trace_callback(seen.append)
    try:
        QUESTIONS[name](session, asked)
    finally:
        driver.set_trace_callback(None)
    selects = [
        statement for statement in seen if statement.startswith(("SELECT", "WITH", "UPDATE"))
    ]
    assert selects
    return [
        row[3] for statement in selects for row in driver.execute(f"EXPLAIN QUERY PLAN {statement}")
    ]


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_takes_no_more_in_a_long_log(
    catalogs: tuple[Catalog, Catalog], name: str
) -> None:
    short, long = (count_steps(catalog, name) for catalog in catalogs)
    assert long <= GROWTH * short + ONCE.get(name, 1.0)


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_is_answered_out_of_indexes(
    catalogs: tuple[Catalog, Catalog], name: str
) -> None:
    with catalogs[1].begin(write=True) as session:
        lines = plans(session, name, draw(session, Random(0)))
        session.rollback()
    scanned = {
        line.split()[1] for line in lines if line.startswith("SCAN") and "CONSTANT" not in line
    }
    assert scanned <= {*WALKS_SPACES, "ancestors"}


def test_a_copied_catalog_equals_one_that_followed_the_records(postgresql_url: str) -> None:
    growing = Growing(commits=120, tasks=40)
    with (
        Catalog.in_memory("store") as followed,
        Catalog.in_memory("store") as source,
        Catalog.open(postgresql_url, store_id="store") as copied,
    ):
        while growing.log.length < growing.commits:
            growing.step()
        for catalog in (followed, source):
            with catalog.begin(write=True) as session:
                growing.log.apply(session)
        copy(source, copied)
        with followed.begin() as followed_session, copied.begin() as copied_session:
            assert dump(followed_session) == dump(copied_session)


@pytest.mark.parametrize("seed", range(3))
def test_both_databases_give_the_same_answers(
    catalogs: tuple[Catalog, Catalog], postgresql_url: str, seed: int
) -> None:
    with Catalog.open(postgresql_url, store_id="store") as server:
        copy(catalogs[0], server)
        with catalogs[0].begin(write=True) as local, server.begin(write=True) as remote:
            asked = draw(local, Random(seed))
            assert {name: ask(local, asked) for name, ask in QUESTIONS.items()} == {
                name: ask(remote, asked) for name, ask in QUESTIONS.items()
            }
            local.rollback()
            remote.rollback()


def test_the_measured_questions_have_answers(catalogs: tuple[Catalog, Catalog]) -> None:
    with catalogs[1].begin() as session:
        asked = draw(session, Random(1))
        answers = {
            name: ask(session, asked)
            for name, ask in QUESTIONS.items()
            if name.startswith(("log", "tasks", "resolve", "lineage"))
        }
        assert [name for name, answer in answers.items() if not answer] == []
        assert lookups.live_tasks(session, SPACE) > LONG // TASKS_PER_COMMIT // 2


RECORDS: dict[str, Callable[[Log, TaskVersion], Logged]] = {
    "alias": lambda log, task: log.alias(task.task, "prod", 1),
    "annotate": lambda log, task: log.annotate(
        task.task, task.version, labels={"team": "other"}, metrics={"f1": "1"}, removed=["stage"]
    ),
    "export": lambda log, task: log.export(task.task, task.version, places={"host": "web-1"}),
    "restore": lambda log, task: log.restore(task.task, task.version + 1, of=1),
    "drop": lambda log, task: log.drop(task.task),
    "rename": lambda log, task: log.rename(task.task, "another-name"),
    "tag": lambda log, _: log.tag("another-tag", 1),
    "policy": lambda log, _: log.set_policy("0.1"),
    "a new task": lambda log, task: log.absorb(
        "another-task", 1, derived_from=[(task.task, task.version)]
    ),
    "refit": lambda log, task: log.refit({task.task: task.version + 1}, source=task.source_digest),
    "merge": lambda log, task: log.merge("another-task", 1, {(task.task, task.version): "1"}),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_of_any_kind_takes_no_more_in_a_long_log(
    catalogs: tuple[Catalog, Catalog], kind: str
) -> None:
    counts = []
    for catalog in catalogs:
        with catalog.begin(write=True) as session:
            head, task = (
                lookups.head(session, SPACE),
                version_lookups.latest_version(session, SPACE, NAMED),
            )
            assert head is not None
            assert task is not None
            record = RECORDS[kind](
                Log(space=SPACE, step=STEP, forgotten=head.number, parent=head.id), task
            )
            with counting(session) as count:
                assert record.apply(session)
            session.rollback()
        counts.append(count())
    assert counts[1] <= GROWTH * counts[0] + 1
