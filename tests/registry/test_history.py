"""The log and the listings: what they show, now and as of a commit, in how many statements."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import get_args

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries.aliases import alias_history, aliases, spaces, tags
from share_registry.catalog.queries.lineage import lineage
from share_registry.catalog.queries.log import LogQuery, commit_at, log, show
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.queries.task_pages import TaskQuery, tasks
from share_registry.errors import InvalidInputError, NotFoundError, ShareRegistryError
from share_registry.format.records import Record
from share_registry.values.commits import KINDS
from tests.catalog.logs import Log, story


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def catalog(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Catalog]:
    from tests.conftest import fresh_database

    if request.param == "sqlite":
        yield from _told(f"sqlite:///{tmp_path_factory.mktemp('told')}/c.sqlite")
        return
    with fresh_database(request.getfixturevalue("postgresql_server")) as url:
        yield from _told(url)


def _told(url: str) -> Iterator[Catalog]:
    with Catalog.open(url) as catalog:
        with catalog.begin(write=True) as session:
            story().apply(session)
            other_story().apply(session)
        yield catalog


@pytest.fixture
def session(catalog: Catalog) -> Iterator[Session]:
    with catalog.begin() as session:
        yield session


def other_story() -> Log:
    log = Log(space="other")
    log.create("org/other")  # c1, as late as c1 of the first space
    log.absorb("cola", 1, author="ada", labels={"team": "search"})  # c2
    return log


def numbers(session: Session, **options: object) -> list[int]:
    return [commit.number for commit in log(session, LogQuery(space="base", **options))]  # type: ignore[arg-type]


def test_the_kinds_are_those_of_the_records() -> None:
    assert set(KINDS) == {kind.model_fields["kind"].default for kind in get_args(Record)}


def test_a_log_is_newest_first(session: Session) -> None:
    assert numbers(session) == list(range(16, 0, -1))
    assert numbers(session, limit=None) == list(range(16, 0, -1))
    assert numbers(session, limit=3) == [16, 15, 14]


FILTERS: dict[str, tuple[dict[str, object], list[int]]] = {
    "a task": ({"task": "acceptability"}, [14, 13, 12, 11, 8, 7, 5, 4, 3, 2]),
    "a task by its old name": ({"task": "cola"}, [14, 13, 12, 11, 8, 7, 5, 4, 3, 2]),
    "a kind": ({"kind": "alias"}, [13, 12, 5, 4]),
    "an author": ({"author": "ada"}, [4, 2]),
    "an author that no database holds": ({"author": "a\0"}, []),
    "an author and a kind": ({"author": "ada", "kind": "alias"}, [4]),
    "since": ({"since": "2026-11-01T14:00"}, [16, 15, 14]),
    "since a day": ({"since": "2026-11-01"}, list(range(16, 0, -1))),
    "since the next day": ({"since": date(2026, 11, 2)}, []),
    "until": ({"until": datetime(2026, 11, 1, 2, 30, tzinfo=UTC)}, [2, 1]),
    "until a naive time, which is UTC": (
        {"until": datetime(2026, 11, 1, 2, 30)},  # noqa: DTZ001 - the point
        [2, 1],
    ),
    "until a day": ({"until": date(2026, 11, 1)}, list(range(16, 0, -1))),
    "until the day before": ({"until": "2026-10-31"}, []),
    "before": ({"before": 3}, [2, 1]),
    "before a reference": ({"before": "@release"}, [2, 1]),
    "before a version": ({"before": "cola@v2"}, [2, 1]),
    "before everything": ({"before": 1}, []),
    "a page of a task": ({"task": "cola", "limit": 2, "before": 11}, [8, 7]),
}


@pytest.mark.parametrize("case", FILTERS)
def test_a_log_is_filtered_by(session: Session, case: str) -> None:
    options, expected = FILTERS[case]
    assert numbers(session, **options) == expected


def test_pages_follow_each_other_without_gap_or_overlap(session: Session) -> None:
    for space in ("base", None):
        whole = [
            (commit.space, commit.number)
            for commit in log(session, LogQuery(space=space, limit=None))
        ]
        paged: list[tuple[str, int]] = []
        before: str | None = None
        while page := log(session, LogQuery(space=space, limit=3, before=before)):
            paged += [(commit.space, commit.number) for commit in page]
            before = f"{page[-1].space}/@c{page[-1].number}"
        assert paged == whole


def test_all_spaces_are_listed_by_time(session: Session) -> None:
    places = [(commit.space, commit.number) for commit in log(session, LogQuery(limit=None))]
    assert len(places) == 18
    assert places[-4:] == [("other", 2), ("base", 2), ("other", 1), ("base", 1)]
    assert [
        (commit.space, commit.number)
        for commit in log(session, LogQuery(task="cola", kind="absorb"))
    ] == [("base", 3), ("other", 2), ("base", 2)]


WRONG: dict[str, tuple[dict[str, object], type[ShareRegistryError]]] = {
    "an unknown kind": ({"kind": "absorbs"}, InvalidInputError),
    "a malformed time": ({"since": "yesterday"}, InvalidInputError),
    "an impossible day": ({"until": "2026-02-30"}, InvalidInputError),
    "an unknown space": ({"space": "nix"}, NotFoundError),
    "an unknown task": ({"task": "nix", "space": "base"}, NotFoundError),
    "an unknown task anywhere": ({"task": "nix"}, NotFoundError),
    "a number of no space": ({"before": 3}, InvalidInputError),
    "a commit of another space": ({"before": "other/@c2", "space": "base"}, InvalidInputError),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_log_refuses(session: Session, case: str) -> None:
    options, error = WRONG[case]
    with pytest.raises(error) as raised:
        log(session, LogQuery(**options))  # type: ignore[arg-type]
    assert raised.value.hint


def test_a_commit_shows_all_it_said(session: Session) -> None:
    told = story()
    commit = commit_at(session, "base", 2)
    assert (commit.number, commit.id, commit.parent, commit.kind, commit.space) == (
        2,
        told.entries[1].id,
        told.entries[0].id,
        "absorb",
        "base",
    )
    assert (commit.time, commit.key, commit.author, commit.message) == (
        told.time(2),
        "key-2",
        "ada",
        "first",
    )
    assert (commit.refs, commit.versions) == (
        {"acceptability": "base/acceptability@v1"},
        {"acceptability": 1},
    )
    assert (commit.labels, commit.metrics) == ({"team": "search"}, {"accuracy": 0.9})
    assert commit.report is not None
    assert (
        commit.report.error,
        commit.report.budget,
        commit.report.bytes_added,
        commit.report.raw_bytes,
    ) == (0.049, 0.05, 101, 1000)
    assert commit.report.notes == ("remark on cola",)
    assert commit.created
    assert not commit_at(session, "base", 2, created=False).created


def test_each_kind_says_what_it_did(session: Session) -> None:
    details = {commit.number: commit.detail for commit in log(session, LogQuery(space="base"))}
    assert details == {
        1: "base model org/base",
        2: "",
        3: "",
        4: "cola@prod is v1",
        5: "cola@prod is v2",
        6: "release names c3",
        7: "labels team; metrics accuracy, f1",
        8: "cola is now called acceptability",
        9: "",
        10: "dropped sst2",
        11: "acceptability@v3 repeats v1",
        12: "acceptability@prod is removed",
        13: "acceptability@prod is v3",
        14: "labels team; removed f1",
        15: "budget 0.1, originals not kept, references on, refits on",
        16: "",
    }


def test_show_follows_a_reference(session: Session) -> None:
    assert show(session, "base/cola@prod").number == 11
    assert show(session, "@c7", space="base").metrics == {"accuracy": 0.91, "f1": 0.8}
    assert set(show(session, "base/@c3").reports) == {"acceptability", "sst2"}
    with pytest.raises(NotFoundError):
        commit_at(session, "base", 99)


def test_spaces_are_summed_up(session: Session) -> None:
    base, second = spaces(session)
    assert (base.name, base.base_model, base.base_revision, base.base_labels) == (
        "base",
        "org/base",
        "main",
        ("org/base-mirror",),
    )
    assert (base.budget, base.keep_original, base.tasks, base.commits, base.time) == (
        0.1,
        False,
        3,
        16,
        story().time(16),
    )
    assert (second.name, second.tasks, second.commits) == ("other", 1, 2)


def refs(session: Session, **options: object) -> list[str]:
    return [task.ref for task in tasks(session, TaskQuery(**options))]  # type: ignore[arg-type]


def test_tasks_are_listed_at_their_newest_versions(session: Session) -> None:
    assert refs(session, space="base") == ["base/acceptability@v3", "base/mnli@v1", "base/sst2@v2"]
    assert refs(session) == [
        "base/acceptability@v3",
        "base/mnli@v1",
        "base/sst2@v2",
        "other/cola@v1",
    ]
    first = tasks(session, TaskQuery(space="base"))[0]
    assert (first.name, first.version, first.number, first.time) == (
        "acceptability",
        3,
        11,
        story().time(11),
    )
    assert (first.labels, first.metrics, first.aliases) == (
        {"team": "search"},
        {"accuracy": 0.9},
        {"prod": 3},
    )
    assert (first.error, first.budget, first.raw_bytes, first.bytes_added) == (0.049, 0.05, 1000, 0)


LISTED: dict[str, tuple[dict[str, object], list[str]]] = {
    "a label": ({"labels": {"team": "search"}}, ["base/acceptability@v3", "other/cola@v1"]),
    "two labels": ({"labels": {"team": "search", "tier": "1"}}, []),
    "another value": ({"labels": {"team": "core"}}, []),
    "a label then": (
        {"labels": {"team": "ads"}, "at": "c8", "space": "base"},
        ["base/acceptability@v2"],
    ),
    "a label not yet": ({"labels": {"team": "ads"}, "at": 6, "space": "base"}, []),
    "an alias": ({"alias": "prod"}, ["base/acceptability@v3"]),
    "an alias then": ({"alias": "prod", "at": "c5", "space": "base"}, ["base/acceptability@v2"]),
    "an alias removed then": ({"alias": "prod", "at": 12, "space": "base"}, []),
    "a pattern": ({"name": "*l*i"}, ["base/mnli@v1"]),
    "a class": ({"name": "[am]*", "space": "base"}, ["base/acceptability@v3", "base/mnli@v1"]),
    "a pattern of no task": ({"name": "Acc*"}, []),
    "a tag": ({"at": "release", "space": "base"}, ["base/acceptability@v2", "base/sst2@v1"]),
    "a time": ({"at": "2026-11-01T02:10"}, ["base/acceptability@v1", "other/cola@v1"]),
    "a day": (
        {"at": date(2026, 11, 1), "space": "base"},
        ["base/acceptability@v3", "base/mnli@v1", "base/sst2@v2"],
    ),
    "while one was dropped": (
        {"at": "@c12", "space": "base"},
        ["base/acceptability@v3", "base/mnli@v1"],
    ),
    "the beginning": ({"at": 1, "space": "base"}, []),
    "before the beginning": ({"at": "2020-01-01"}, []),
}


@pytest.mark.parametrize("case", LISTED)
def test_tasks_are_listed_by(session: Session, case: str) -> None:
    options, expected = LISTED[case]
    assert refs(session, **options) == expected


def test_a_listing_then_shows_what_was_true_then(session: Session) -> None:
    then = tasks(session, TaskQuery(space="base", at=7))[0]
    assert (then.labels, then.metrics, then.aliases) == (
        {"team": "ads"},
        {"accuracy": 0.91, "f1": 0.8},
        {"prod": 2},
    )
    assert tasks(session, TaskQuery(space="base", at=6))[0].labels == {}
    assert (
        tasks(session, TaskQuery(space="base", labels={"t\0": "\0"})) == []
    )  # which PostgreSQL does not hold


def test_tasks_refuse_a_moment_of_no_space(session: Session) -> None:
    with pytest.raises(InvalidInputError):
        tasks(session, TaskQuery(at="c3"))
    with pytest.raises(NotFoundError):
        tasks(session, TaskQuery(space="base", at="c99"))


def test_aliases_are_listed_now_and_then(session: Session) -> None:
    (now,) = aliases(session)
    assert (now.name, now.task, now.version, now.ref, now.number, now.time) == (
        "prod",
        "acceptability",
        3,
        "base/acceptability@v3",
        13,
        story().time(13),
    )
    assert [alias.version for alias in aliases(session, space="base", task="cola", at="c6")] == [2]
    assert aliases(session, space="base", at=12) == []
    assert aliases(session, space="base", task="mnli") == []
    with pytest.raises(NotFoundError):
        aliases(session, space="base", task="nix")


def test_the_moves_of_an_alias_are_listed_newest_first(session: Session) -> None:
    moves = alias_history(session, "cola", "prod", space="base")
    listed = [(move.version, move.number, move.author, move.reason, move.ref) for move in moves]
    assert listed == [
        (3, 13, None, "", "base/acceptability@v3"),
        (None, 12, None, "", None),
        (2, 5, None, "CAB-2", "base/acceptability@v2"),
        (1, 4, "ada", "CAB-1", "base/acceptability@v1"),
    ]
    assert moves[0].id == story().entries[12].id


@pytest.mark.parametrize(
    ("at", "expected"),
    [(3, []), ("c4", [1]), (11, [2]), (12, []), ("2026-11-01", [3]), ("@latest", [3])],
)
def test_what_an_alias_stood_for_then(session: Session, at: int | str, expected: list[int]) -> None:
    assert [
        move.version
        for move in alias_history(session, "acceptability", "prod", space="base", at=at)
    ] == expected


def test_an_alias_that_never_was_is_not_found(session: Session) -> None:
    with pytest.raises(NotFoundError) as raised:
        alias_history(session, "cola", "prd", space="base")
    assert "prod" in raised.value.hint


def test_tags_are_listed_with_the_commit_they_name(session: Session) -> None:
    (tag,) = tags(session)
    assert (tag.name, tag.space, tag.number, tag.id, tag.time) == (
        "release",
        "base",
        3,
        story().entries[2].id,
        story().time(3),
    )
    assert tags(session, space="other") == []


def ancestry(session: Session, ref: str) -> list[tuple[str, str, int]]:
    return [
        (node.ref.removeprefix("base/"), node.via, node.depth)
        for node in lineage(session, ref, space="base").nodes
    ]


def test_a_lineage_has_versions_parents_and_what_was_restored(session: Session) -> None:
    assert ancestry(session, "cola@v2") == [
        ("acceptability@v2", "", 0),
        ("acceptability@v1", "version", 1),
    ]
    assert ancestry(session, "cola") == [
        ("acceptability@v3", "", 0),
        ("acceptability@v1", "restored", 1),
    ]
    assert ancestry(session, "mnli") == [
        ("mnli@v1", "", 0),
        ("acceptability@v1", "derived", 1),
        ("sst2@v1", "derived", 1),
    ]
    assert ancestry(session, "sst2@v2") == [("sst2@v2", "", 0), ("sst2@v1", "version", 1)]


def test_a_lineage_says_where_each_came_from(session: Session) -> None:
    ancestry = lineage(session, "base/mnli")
    assert (ancestry.ref, ancestry.base_model, ancestry.base_revision) == (
        "base/mnli@v1",
        "org/base",
        "main",
    )
    node = ancestry.nodes[1]
    assert (node.number, node.kind, node.author, node.message, node.source, node.error) == (
        2,
        "absorb",
        "ada",
        "first",
        "/adapters/cola",
        0.049,
    )
    with pytest.raises(InvalidInputError):
        lineage(session, "base/@c3")


def test_a_long_lineage_is_walked_without_recursion_and_each_node_once() -> None:
    depth = 1500
    told = Log()
    told.create()
    told.absorb_many({"left": 1, "right": 1})
    for version in range(2, depth):
        told.absorb_many(
            {"left": version, "right": version},
            derived_from=[("left", version - 1), ("right", version - 1)],
        )
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        told.apply(session)
        nodes = lineage(session, f"left@v{depth - 1}").nodes
    assert len(nodes) == len({node.ref for node in nodes}) == 2 * (depth - 1) - 1
    assert nodes[1].ref == f"base/left@v{depth - 2}"


QUESTIONS: dict[str, tuple[Callable[[Session], object], int]] = {
    "log": (lambda session: log(session, LogQuery(space="base", limit=None)), 5),
    "log of a task": (
        lambda session: log(session, LogQuery(space="base", task="task001", limit=None)),
        6,
    ),
    "log of all": (lambda session: log(session, LogQuery(limit=None)), 5),
    "show": (lambda session: show(session, "base/task001"), 11),
    "tasks": (lambda session: tasks(session, TaskQuery(space="base")), 6),
    "tasks then": (
        lambda session: tasks(session, TaskQuery(space="base", at="c2", labels={"a": "b"})),
        8,
    ),
    "aliases": (lambda session: aliases(session, space="base"), 2),
    "alias history": (lambda session: alias_history(session, "task001", "prod", space="base"), 4),
    "tags": (lambda session: tags(session), 1),
    "spaces": (lambda session: spaces(session), 1),
    "resolve": (lambda session: resolve(session, "base/task001"), 5),
    "resolve an alias": (lambda session: resolve(session, "base/task001@prod"), 4),
    "resolve then": (lambda session: resolve(session, "base/task001@2026-11-01"), 6),
    "lineage": (lambda session: lineage(session, "base/task001"), 10),
}


@pytest.fixture(scope="module")
def sizes() -> Iterator[list[Session]]:
    catalogs = [Catalog.in_memory(), Catalog.in_memory()]
    for catalog, size in zip(catalogs, (2, 40), strict=True):
        told = Log()
        told.create()
        for version in range(1, size):
            told.absorb_many(
                {f"task{index:03}": version for index in range(size)},
                labels={"a": "b"},
                metrics={"c": "1"},
            )
        for version in range(1, size):
            told.alias("task001", "prod", version)
            told.tag(f"tag{version}", 1)
        with catalog.begin(write=True) as session:
            told.apply(session)
    with catalogs[0].begin() as small, catalogs[1].begin() as large:
        yield [small, large]
    for catalog in catalogs:
        catalog.close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_takes_as_many_statements_however_much_there_is(
    sizes: list[Session], question: str
) -> None:
    ask, most = QUESTIONS[question]
    counts = []
    for session in sizes:
        seen: list[str] = []

        def see(*arguments: object, seen: list[str] = seen) -> None:
            seen.append(str(arguments[2]))

        event.listen(session.connection(), "before_cursor_execute", see)
        ask(session)
        event.remove(session.connection(), "before_cursor_execute", see)
        counts.append(len(seen))
    assert counts[0] == counts[1] <= most


@pytest.mark.parametrize("question", ["log", "show", "tasks then", "resolve then", "lineage"])
def test_a_question_writes_nothing(sizes: list[Session], question: str) -> None:
    for session in sizes:
        before = session.connection().exec_driver_sql("SELECT total_changes()").scalar()
        QUESTIONS[question][0](session)
        assert session.connection().exec_driver_sql("SELECT total_changes()").scalar() == before
