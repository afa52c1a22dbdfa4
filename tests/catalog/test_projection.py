"""The projection of records into rows."""

from share_registry.catalog import queries
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.projection import wipe
from tests.catalog.logs import story


def test_a_log_applied_twice_changes_nothing_the_second_time(catalog_url: str) -> None:
    log = story()
    with Catalog.open(catalog_url) as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
            first = queries.dump(session)
        with catalog.begin(write=True) as session:
            assert not any(entry.apply(session) for entry in log.entries)
            assert queries.dump(session) == first


def test_a_catalog_wiped_and_filled_again_is_equal(catalog_url: str) -> None:
    log = story()
    with Catalog.open(catalog_url, store_id="store") as catalog:
        with catalog.begin(write=True) as session:
            log.apply(session)
            first = queries.dump(session)
        with catalog.begin(write=True) as session:
            wipe(session)
            assert not any(rows for name, rows in queries.dump(session).items() if name != "sr_registry")
            assert queries.store_identity(session) == "store"
            log.apply(session)
            assert queries.dump(session) == first
