"""Any log: the catalog answers what a model in plain dicts says; replay gives an equal catalog."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.projection.apply import wipe
from share_registry.names import SpaceName
from share_registry.registry.replay import fill_again, fill_up_to
from tests.catalog.logs import Log
from tests.catalog.random_logs import Writer, check_answers
from tests.catalog.rows import dump

EXAMPLES = {"sqlite": 60, "postgresql": 12}


@pytest.fixture(params=["sqlite", "postgresql"], scope="module")
def catalog(request: pytest.FixtureRequest) -> Iterator[Catalog]:
    from tests.conftest import fresh_database

    if request.param == "sqlite":
        with Catalog.in_memory() as catalog:
            yield catalog
        return
    with (
        fresh_database(request.getfixturevalue("postgresql_server")) as url,
        Catalog.open(url) as catalog,
    ):
        yield catalog


def test_a_catalog_answers_as_the_model_and_replays_to_an_equal_one(
    catalog: Catalog, request: pytest.FixtureRequest
) -> None:
    kind = str(request.node.callspec.params["catalog"])

    @settings(max_examples=EXAMPLES[kind], deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data(), st.integers(1, 14))
    def check(data: st.DataObject, steps: int) -> None:
        writer = Writer(lambda strategy: data.draw(strategy))
        for _ in range(steps):
            writer.step()
        store = writer.log.store(0)
        with catalog.begin(write=True) as session:
            wipe(session)
            for entry in writer.log.entries:
                # as whoever publishes it does
                entry.follow(session, store)
                entry.publish(store)
            check_answers(session, writer)
            first = dump(session)
        with Catalog.in_memory() as fresh, fresh.begin(write=True) as session:
            for entry in writer.log.entries:
                entry.follow(session, store)
                entry.follow(session, store)
            assert dump(session) == first
        _check_without_unread_notes(catalog, writer.log, data.draw(st.integers(0, steps)), first)

    check()


def _check_without_unread_notes(
    catalog: Catalog, log: Log, before: int, expected: dict[str, list[tuple[object, ...]]]
) -> None:
    """Check what follows from a store that lost the notes which purges took away (spec REC-23).

    Also for a catalog that had followed the log up to a number while they were there.
    """
    with catalog.begin(write=True) as session:
        wipe(session)
        followed = log.store(before)
        for entry in log.entries[:before]:
            entry.follow(session, followed)
    store = log.store()
    for digest in log.unread():
        store.remove([digest])
    fill_up_to(store, catalog, SpaceName(log.space), None)
    with catalog.begin(write=True) as session:
        assert dump(session) == expected
        fill_again(session, store, SpaceName(log.space))
        assert dump(session) == expected
