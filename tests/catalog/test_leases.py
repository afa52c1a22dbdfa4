"""Advisory leases of spaces."""

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.leases import release, take
from share_registry.catalog.projection.apply import wipe
from tests.catalog.logs import story
from tests.catalog.rows import dump

EARLY, LATE, LATER = (
    "2026-11-01T00:00:00.000000Z",
    "2026-11-01T00:01:00.000000Z",
    "2026-11-01T00:02:00.000000Z",
)


def test_a_lease_is_one_holders_until_it_ends(catalog_url: str) -> None:
    with Catalog.open(catalog_url) as catalog, catalog.begin(write=True) as session:
        assert take(session, space="base", holder="a", now=EARLY, expires=LATE)
        assert take(session, space="base", holder="a", now=EARLY, expires=LATE)
        assert not take(session, space="base", holder="b", now=EARLY, expires=LATE)
        assert take(session, space="other", holder="b", now=EARLY, expires=LATE)
        assert take(session, space="base", holder="b", now=LATE, expires=LATER)
        release(session, space="base", holder="a")
        assert not take(session, space="base", holder="a", now=LATE, expires=LATER)
        release(session, space="base", holder="b")
        assert take(session, space="base", holder="a", now=LATE, expires=LATER)


def test_a_lease_is_no_part_of_what_is_compared_or_wiped() -> None:
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        story().apply(session)
        before = dump(session)
        assert take(session, space="base", holder="a", now=EARLY, expires=LATE)
        assert dump(session) == before
        wipe(session)
        assert not take(session, space="base", holder="b", now=EARLY, expires=LATE)
