"""The projection of records into rows: what it makes of a log, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.projection.apply import wipe
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.tables import (
    AliasRow,
    CommitRow,
    IdentityRow,
    LabelRow,
    ModuleRow,
    ObjectRow,
    SpaceRow,
    TaskNameRow,
    TaskRow,
    VersionRow,
)
from share_registry.errors import ConflictError, IntegrityError
from share_registry.format.notes import Note
from tests.catalog.filled import apply
from tests.catalog.logs import GENESIS, Log, Logged, begun, digest_of, layout_of, story, whole_story
from tests.catalog.rows import dump


def test_a_log_applied_twice_changes_nothing_the_second_time(catalog_url: str) -> None:
    log = whole_story()
    with Catalog.open(catalog_url) as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
            first = dump(session)
        with catalog.begin(write=True) as session:
            assert not any(entry.apply(session) for entry in log.entries)
            assert dump(session) == first


def test_a_catalog_wiped_and_filled_again_is_equal(catalog_url: str) -> None:
    log = whole_story()
    with Catalog.open(catalog_url, store_id="store") as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
            first = dump(session)
        with catalog.begin(write=True) as session:
            wipe(session)
            assert not any(rows for name, rows in dump(session).items() if name != "sr_registry")
            assert session.scalar(select(IdentityRow.store)) == "store"
            log.apply(session)
            assert dump(session) == first


def test_both_databases_hold_equal_rows(new_catalog_url: Callable[[str], str]) -> None:
    dumps = []
    for kind in ("sqlite", "postgresql"):
        with Catalog.open(new_catalog_url(kind)) as catalog, catalog.begin(write=True) as session:
            whole_story().apply(session)
            dumps.append(dump(session))
    assert dumps[0] == dumps[1]
    assert sum(len(rows) for rows in dumps[0].values()) > 60


def test_wiping_one_space_leaves_the_others() -> None:
    logs = [story(), Log(space="other")]
    logs[1].create()
    logs[1].absorb("cola", 1)
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        for log in logs:
            log.apply(session)
        before = dump(session)
        wipe(session, "base")
        assert lookups.space_names(session) == ["other"]
        assert len(session.scalars(select(CommitRow.number)).all()) == 2
        logs[0].apply(session)
        assert dump(session) == before


def test_tasks_are_numbered_in_the_order_of_creation() -> None:
    log = Log()
    log.create()
    log.absorb("zeta", 1)
    log.absorb_many({"beta": 1, "alpha": 1})
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        names = session.execute(
            select(TaskRow.task, TaskNameRow.name)
            .join(TaskNameRow.table, TaskNameRow.task == TaskRow.task)
            .order_by(TaskRow.task)
        )
        assert [tuple(row) for row in names] == [(1, "zeta"), (2, "alpha"), (3, "beta")]


def test_the_head_moves_with_every_record() -> None:
    log = story()
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        for entry in log.entries:
            assert entry.apply(session)
            head = lookups.head(session, "base")
            assert head is not None
            assert (head.number, head.id, head.time) == (
                entry.record.number,
                entry.id,
                entry.record.time,
            )
        assert lookups.heads(session) == {"base": lookups.head(session, "base")}


def test_a_restored_version_carries_what_it_repeats() -> None:
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        story().apply(session)
        first, restored = (
            version_lookups.version_row(session, "base", "acceptability", version)
            for version in (1, 3)
        )
        assert first is not None
        assert restored is not None
        same = (
            "adapter_digest",
            "layout_digest",
            "tensors_digest",
            "source_digest",
            "config_digest",
            "note_digest",
            "note_task",
            "error",
            "raw_bytes",
            "remarks",
        )
        assert [getattr(restored, name) for name in same] == [getattr(first, name) for name in same]
        assert (first.name, restored.name, restored.note_task) == ("cola", "acceptability", "cola")
        assert (restored.restored_from, restored.added_bytes, restored.number) == (1, 0, 11)
        assert lookups.labels_of(session, "base", "acceptability", 3) == {"team": "search"}
        assert lookups.metrics_of(session, "base", "acceptability", 3) == {"accuracy": 0.9}


def test_an_annotation_replaces_and_removes() -> None:
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        story().apply(session)
        assert lookups.labels_of(session, "base", "cola", 2) == {"team": "core"}
        assert lookups.metrics_of(session, "base", "cola", 2) == {"accuracy": 0.91}
        rows = session.execute(
            select(LabelRow.value, LabelRow.since, LabelRow.until)
            .where(LabelRow.version == 2)
            .order_by(LabelRow.since)
        )
        assert [tuple(row) for row in rows] == [("ads", 7, 14), ("core", 14, None)]


def test_alias_rows_tell_what_was_live_when() -> None:
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        story().apply(session)
        rows = session.execute(
            select(AliasRow.version, AliasRow.since, AliasRow.until).order_by(AliasRow.since)
        )
        assert [tuple(row) for row in rows] == [(1, 4, 5), (2, 5, 12), (3, 13, None)]


def test_an_alias_is_removed_once() -> None:
    log = begun()
    for target in (1, None):
        log.alias("cola", "prod", target)
    with Catalog.in_memory() as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
            rows = session.execute(select(AliasRow.version, AliasRow.since, AliasRow.until))
            assert [tuple(row) for row in rows] == [(1, 3, 4)]
        with pytest.raises(IntegrityError, match="does not have"):
            apply(catalog, log.alias("cola", "prod", None))


def test_objects_are_listed_once_for_each_role() -> None:
    log = story()
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        rows = session.execute(select(ObjectRow.role, ObjectRow.digest, ObjectRow.since)).all()
    roles = [row.role for row in rows]
    assert {role: roles.count(role) for role in set(roles)} == {
        "adapter": 5,
        "layout": 1,
        "config": 3,
        "attachment": 3,
        "note": 9,
    }
    assert next(row.since for row in rows if row.digest == digest_of("config", "cola")) == 2


def test_modules_are_learned_from_layouts() -> None:
    log = Log()
    log.create()
    log.absorb("one", 1, layout=layout_of({"q": (16, 8)}))
    log.absorb("two", 1, layout=layout_of({"q": (16, 8), "v": (4, 8)}, rank=2))
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        assert lookups.module_shapes(session, "base") == {"q": (16, 8, 1), "v": (4, 8, 1)}
        assert session.scalar(select(ModuleRow.since).where(ModuleRow.module == "v")) == 3


def test_a_record_whose_note_was_removed_is_applied_without_it() -> None:
    log = story()
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        for entry in log.entries:
            replace(entry, note=None).apply(session)
        assert session.scalars(select(CommitRow.author)).unique().all() == [None]
        assert session.scalars(select(LabelRow.name)).all() == []
        assert session.scalars(select(VersionRow.config_digest)).unique().all() == [None]


def test_text_that_postgresql_cannot_hold_is_replaced(catalog_url: str) -> None:
    log = Log()
    log.create()
    log.absorb("cola", 1, message="a\0b", labels={"x\0y": "1\0"}, author="\0")
    with Catalog.open(catalog_url) as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        assert session.scalar(select(CommitRow.message).where(CommitRow.number == 2)) == "a\ufffdb"
        assert lookups.labels_of(session, "base", "cola", 1) == {"x\ufffdy": "1\ufffd"}


def test_a_second_label_of_one_name_wins() -> None:
    log = Log()
    log.create()
    entry = log.absorb("cola", 1, labels={"a": "1"})
    assert entry.note is not None
    said = entry.note.tasks[0]
    doubled = Note(
        tasks=[
            said.model_copy(
                update={"labels": [*said.labels, said.labels[0].model_copy(update={"value": "2"})]}
            )
        ]
    )
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.entries[0].apply(session)
        replace(entry, note=doubled).apply(session)
        assert lookups.labels_of(session, "base", "cola", 1) == {"a": "2"}


def _gap(log: Log) -> Logged:
    log.absorb("cola", 2)
    return log.absorb("cola", 3)


def _foreign_parent(log: Log) -> Logged:
    entry = log.absorb("cola", 2)
    record = entry.record.model_copy(update={"parent": GENESIS})
    return replace(entry, record=record, id=record.id)


def _fork(log: Log) -> Logged:
    record = log.entries[-1].record.model_copy(update={"key": "other"})
    return replace(log.entries[-1], record=record, id=record.id)


def _second_create(log: Log) -> Logged:
    return log.create("org/other")


def _create_again(log: Log) -> Logged:
    return Log(space="base").create("org/other")


def _earlier_time(log: Log) -> Logged:
    log.step = -log.step
    return log.absorb("cola", 2)


def _no_space(log: Log) -> Logged:
    unknown = Log(space="unknown")
    unknown.create()
    return unknown.drop("cola")


def _unsorted(log: Log) -> Logged:
    entry = log.absorb_many({"cola": 2, "sst2": 2})
    tasks = list(reversed(entry.record.tasks))  # type: ignore[union-attr]
    record = entry.record.model_copy(update={"tasks": tasks})
    return replace(entry, record=record, id=record.id)


def _old_name(log: Log) -> Logged:
    log.rename("cola", "new")
    return log.absorb("cola", 2)


WRONG: dict[str, tuple[Callable[[Log], Logged], str]] = {
    "a gap": (_gap, "cannot follow"),
    "another parent": (_foreign_parent, "has the parent"),
    "a fork": (_fork, "but the catalog holds"),
    "a create behind a commit": (_second_create, "cannot follow"),
    "another first record": (_create_again, "but the catalog holds"),
    "a space without its create": (_no_space, "cannot follow"),
    "an earlier time": (_earlier_time, "earlier than"),
    "a key used before": (lambda log: log.absorb("cola", 2, key="key-2"), "repeats the key"),
    "tasks out of order": (_unsorted, "sorted"),
    "a version left out": (lambda log: log.absorb("cola", 3), "expected v2"),
    "a version again": (lambda log: log.absorb("cola", 1), "expected v2"),
    "a first version that is not 1": (lambda log: log.absorb("mnli", 2), "expected v1"),
    "an old name": (_old_name, "is called 'new'"),
    "a parent that does not exist": (
        lambda log: log.absorb("mnli", 1, derived_from=[("cola", 2)]),
        "does not exist",
    ),
    "a parent task that does not exist": (
        lambda log: log.absorb("mnli", 1, derived_from=[("nix", 1)]),
        "does not exist",
    ),
    "a parent made by the same record": (
        lambda log: log.absorb("mnli", 1, derived_from=[("mnli", 1)]),
        "does not exist",
    ),
    "a conflicting module shape": (
        lambda log: log.absorb("mnli", 1, layout=layout_of({"layer.0.q": (16, 4)})),
        "the space has",
    ),
    "a restored version that does not exist": (
        lambda log: log.restore("cola", 2, of=7),
        "does not exist",
    ),
    "a restore out of order": (lambda log: log.restore("cola", 3, of=1), "expected v2"),
    "a drop of nothing": (lambda log: log.drop("nix"), "does not exist"),
    "a name that belongs to another": (
        lambda log: log.rename("cola", "sst2"),
        "belongs to another task",
    ),
    "the name that a task has": (lambda log: log.rename("cola", "cola"), "name that it has"),
    "an alias of a version that does not exist": (
        lambda log: log.alias("cola", "prod", 2),
        "does not exist",
    ),
    "a tag of the future": (lambda log: log.tag("release", 3), "does not exist before it"),
    "an expired version that does not exist": (
        lambda log: log.expire([("cola", 2)]),
        "does not exist",
    ),
    "the newest version of a live task expired": (
        lambda log: log.expire([("cola", 1)]),
        "the newest of a live task",
    ),
    "a purge of nothing": (lambda log: log.purge("nix"), "does not exist"),
    "an annotation of a version that does not exist": (
        lambda log: log.annotate("cola", 2, labels={"a": "b"}),
        "does not exist",
    ),
    "an export of a version that does not exist": (
        lambda log: log.export("cola", 2),
        "does not exist",
    ),
    "an export of nothing": (lambda log: log.export("nix", 1), "does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_record_that_does_not_follow_is_refused_and_changes_nothing(case: str) -> None:
    make, message = WRONG[case]
    log = begun()
    with Catalog.in_memory() as catalog:
        apply(catalog, log)
        wrong = make(log)
        for entry in log.entries[2:]:
            if entry.record.number < wrong.record.number and case == "an old name":
                apply(catalog, entry)
        before = _dump(catalog)
        with pytest.raises(IntegrityError, match=message):
            apply(catalog, wrong)
        assert _dump(catalog) == before


def test_a_tag_given_twice_is_refused() -> None:
    log = begun()
    log.tag("release", 1)
    with Catalog.in_memory() as catalog:
        apply(catalog, log)
        with pytest.raises(IntegrityError, match="a second time"):
            apply(catalog, log.tag("release", 2))


def test_a_name_that_was_another_tasks_is_refused_for_a_new_task() -> None:
    log = begun()
    log.rename("cola", "new")
    with Catalog.in_memory() as catalog:
        apply(catalog, log)
        with pytest.raises(IntegrityError, match="belongs to another task"):
            apply(catalog, log.rename("sst2", "cola"))


def test_a_task_may_have_its_old_name_again() -> None:
    log = begun()
    log.rename("cola", "new")
    log.rename("new", "cola")
    log.absorb("cola", 2)
    with Catalog.in_memory() as catalog:
        apply(catalog, log)
        with catalog.begin() as session:
            assert (
                lookups.current_name(session, "base", "new")
                == lookups.current_name(session, "base", "cola")
                == "cola"
            )
            latest = version_lookups.latest_version(session, "base", "new")
            assert latest is not None
            assert latest.version == 2


def test_two_spaces_may_share_keys_and_names() -> None:
    with Catalog.in_memory() as catalog:
        for space in ("one", "two"):
            log = Log(space=space)
            log.create()
            log.absorb("cola", 1)
            apply(catalog, log)
        with catalog.begin() as session:
            assert lookups.space_names(session) == ["one", "two"]


def test_rows_that_are_there_by_another_way_are_a_conflict(catalog_url: str) -> None:
    log = begun()
    with Catalog.open(catalog_url) as catalog:
        with catalog.begin(write=True) as session:
            session.execute(SpaceRow.table.insert(), [_space_row()])
        with pytest.raises(ConflictError):
            apply(catalog, log.entries[0])


def _space_row() -> dict[str, object]:
    row = {
        "name": "base",
        "base_model": "m",
        "base_labels": (),
        "budget": 0.1,
        "keep_original": False,
        "references": True,
        "require": (),
    }
    counts = {"live": 0, "added_bytes": 0, "raw_bytes": 0}
    return row | counts | {"refit": True, "phi": 0, "head": 1, "head_id": "x"}


def _dump(catalog: Catalog) -> dict[str, list[tuple[object, ...]]]:
    with catalog.begin() as session:
        return dump(session)


def statements(session: Session) -> list[str]:
    from sqlalchemy import event

    issued: list[str] = []
    event.listen(
        session.connection(),
        "before_cursor_execute",
        lambda *arguments: issued.append(arguments[2]),
    )
    return issued


def test_a_commit_of_many_tasks_takes_as_many_statements_as_one_of_two() -> None:
    counts = []
    for size in (2, 100):
        log = Log()
        log.create()
        for version in (1, 2):
            log.absorb_many(
                {f"task{index:03}": version for index in range(size)}, labels={"a": "b"}
            )
        with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
            for entry in log.entries[:2]:
                entry.apply(session)
            seen = statements(session)
            log.entries[2].apply(session)
            counts.append(len(seen))
    assert counts[0] == counts[1]
    assert counts[0] <= 12
