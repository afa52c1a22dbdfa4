"""What records that remove versions do to rows, and what is read in place of objects."""

from collections.abc import Callable

import pytest
from sqlalchemy import select

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.projection.apply import wipe
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.aliases import aliases, spaces
from share_registry.catalog.tables import ObjectRow
from share_registry.errors import IntegrityError
from share_registry.format.named_objects import replacements
from tests.catalog.logs import Log, Logged, begun, digest_of
from tests.catalog.rows import dump


def removing() -> Log:
    """Return a log of which a version was expired and whose alias stands at another."""
    log = begun()
    for version in (2, 3, 4):
        log.absorb("cola", version)
    log.alias("cola", "prod", 2)
    log.expire([("cola", 1)])
    return log


REMOVED: dict[str, tuple[Callable[[Log], Logged], str]] = {
    "expired once more": (lambda log: log.expire([("cola", 1), ("cola", 3)]), "removed"),
    "expired under an alias": (lambda log: log.expire([("cola", 2)]), "the alias 'prod' is"),
    "restored": (lambda log: log.restore("cola", 5, of=1), "removed"),
    "pointed at": (lambda log: log.alias("cola", "prod", 1), "removed"),
    "annotated": (lambda log: log.annotate("cola", 1, labels={"a": "b"}), "removed"),
}


@pytest.mark.parametrize("case", REMOVED)
def test_a_removed_version_is_not_spoken_of_again(case: str) -> None:
    """Spec REC-22."""
    make, message = REMOVED[case]
    log = removing()
    with Catalog.in_memory() as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
            before = dump(session)
        with pytest.raises(IntegrityError, match=message), catalog.begin(write=True) as session:
            make(log).apply(session)
        with catalog.begin() as session:
            assert dump(session) == before


def test_a_removed_version_may_be_what_another_came_from() -> None:
    log = removing()
    log.absorb("mnli", 1, derived_from=[("cola", 1)])
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)


def test_objects_of_removed_versions_alone_are_forgotten() -> None:
    log = begun()
    log.absorb("cola", 2)
    log.restore("cola", 3, of=1)
    log.absorb("cola", 4)
    log.expire([("cola", 1), ("cola", 2)])
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        adapters = {*session.scalars(select(ObjectRow.digest).where(ObjectRow.role == "adapter"))}
        # v3 repeats v1
        assert digest_of("adapter", "cola", 1, None) in adapters
        assert digest_of("adapter", "cola", 2, None) not in adapters
        configs = session.scalars(select(ObjectRow.digest).where(ObjectRow.role == "config"))
        assert digest_of("config", "cola") in configs


def test_a_purge_drops_a_task_and_its_aliases_and_leaves_what_was_removed_before() -> None:
    """Spec REC-23."""
    log = removing()
    log.purge("cola")
    log.purge("cola")
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        store = log.store(0)
        for entry in log.entries:
            entry.follow(session, store)
            entry.publish(store)
        (space,) = spaces(session)
        assert space.tasks == 1
        assert aliases(session) == []
        last = log.entries[-1].record.number
        assert [
            row.removed for row in version_lookups.all_versions(session) if row.task == "cola"
        ] == [
            last - 2,
            *[last - 1] * 3,
        ]
        assert [
            row.removed for row in version_lookups.all_versions(session) if row.task == "sst2"
        ] == [None]


def test_what_several_purges_replace_is_read_in_their_order(catalog_url: str) -> None:
    """Spec REC-23: each replaces what is read as of the one before, of records before it alone."""
    log = Log()
    log.create()
    log.absorb_many({"cola": 1, "mnli": 1, "sst2": 1}, labels={"team": "search"})  # c2
    log.refit(name="first")  # c3
    log.refit(name="second")  # c4
    adapter = str(digest_of("adapter", "mnli", 1, None))
    first = log.purge("cola", adapters=[adapter], bases=[digest_of("second")])  # c5
    log.absorb_many({"cola": 2, "mnli": 2, "sst2": 2}, labels={"team": "search"})  # c6: same note
    assert log.entries[-1].record.note == log.entries[1].record.note
    log.refit(name="second")  # c7
    alone = digest_of("alone", adapter)
    second = log.purge("sst2", adapters=[alone])  # c8
    rests = [by for digest, by in replacements(first.record).items() if digest != adapter]
    replaced = {log.entries[1].record.note, *rests, alone} - {None}
    assert replacements(second.record).keys() == replaced
    store = log.store()
    for digest in log.unread():
        store.remove([digest])
    for followed in (log.store(0), store):
        with Catalog.open(catalog_url) as catalog, catalog.begin(write=True) as session:
            wipe(session)
            for entry in log.entries:
                entry.follow(session, followed)
                entry.publish(followed)
            rows = {
                f"{row.task}@v{row.version}": row for row in version_lookups.all_versions(session)
            }
            assert rows["mnli@v1"].adapter_digest == digest_of("alone", alone)
            assert rows["mnli@v2"].adapter_digest == digest_of("adapter", "mnli", 2, None)
            labels = {
                ref: lookups.labels_of(session, "base", row.task, row.version)
                for ref, row in rows.items()
            }
            known = {"team": "search"}
            assert labels == {
                "cola@v1": {},
                "cola@v2": known,
                "mnli@v1": known,
                "mnli@v2": known,
                "sst2@v1": {},
                "sst2@v2": {},
            }
            removed = {ref: row.removed for ref, row in rows.items() if row.removed}
            assert removed == {"cola@v1": 5, "sst2@v1": 8, "sst2@v2": 8}
            # spec REC-19: a record whose basis went names none
            bases = [lookups.current_basis(session, "base", at=at) for at in (3, 4, 6, 7)]
            assert [basis and basis.number for basis in bases] == [3, 3, 3, 7]
