"""References: what each form leads to, and what is said where it leads nowhere."""

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries.commit_selectors import number_of
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.queries.resolution import (
    resolve,
    resolve_task,
    resolve_version,
    version_of,
)
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ShareRegistryError
from share_registry.names import parse_reference
from share_registry.times import beginning_of, end_of
from tests.catalog.logs import Log, digest_of, story


@pytest.fixture
def session(catalog_url: str) -> Iterator[Session]:
    with Catalog.open(catalog_url) as catalog:
        with catalog.begin(write=True) as session:
            story().apply(session)
        with catalog.begin() as session:
            yield session


@pytest.fixture(scope="module")
def told() -> Iterator[Session]:
    with Catalog.in_memory() as catalog:
        with catalog.begin(write=True) as session:
            story().apply(session)
        with catalog.begin() as session:
            yield session


LEADS = {
    "cola": "base/acceptability@v3",
    "base/cola": "base/acceptability@v3",
    "acceptability": "base/acceptability@v3",
    "cola@latest": "base/acceptability@v3",
    "cola@head": "base/acceptability@v3",
    "cola~1": "base/acceptability@v2",
    "cola@latest~2": "base/acceptability@v1",
    "cola@v1": "base/acceptability@v1",
    "acceptability@v2~1": "base/acceptability@v1",
    "cola@prod": "base/acceptability@v3",
    "acceptability@prod~1": "base/acceptability@v2",
    "cola@prod~2": "base/acceptability@v1",
    "cola@c2": "base/acceptability@v1",
    "acceptability@c2": "base/acceptability@v1",
    "cola@c10": "base/acceptability@v2",
    "cola@c10~1": "base/acceptability@v1",
    "cola@release": "base/acceptability@v2",
    "cola@release~1": "base/acceptability@v1",
    "cola@2026-11-01T02:30": "base/acceptability@v1",
    "cola@2026-11-01": "base/acceptability@v3",
    "cola@2026-11-01T03:00:00+00:00": "base/acceptability@v2",
    "cola@2026-11-01T04:59+02:00": "base/acceptability@v1",
    "sst2@c9": "base/sst2@v1",
    "sst2": "base/sst2@v2",
    "@c12": "base/@c12",
    "base/@c12~2": "base/@c10",
    "@release": "base/@c3",
    "@latest": "base/@c16",
    "@latest~1": "base/@c15",
    "@2026-11-01T05:30": "base/@c5",
}


@pytest.mark.parametrize("text", LEADS)
def test_a_reference_leads_to(told: Session, text: str) -> None:
    assert resolve(told, text).ref == LEADS[text]


@pytest.mark.parametrize(
    "text", [text for text in LEADS if text.partition("@")[0] not in ("", "base/")]
)
def test_what_is_known_of_a_version_is_of_the_one_that_a_reference_leads_to(
    told: Session, text: str
) -> None:
    row, resolved = version_of(told, text), resolve(told, text)
    assert (row.ref, row.number, row.commit_id) == (resolved.ref, resolved.number, resolved.id)


def test_both_databases_lead_to_the_same(session: Session, told: Session) -> None:
    assert {text: resolve(session, text) for text in LEADS} == {
        text: resolve(told, text) for text in LEADS
    }


def test_the_number_and_id_are_of_the_commit_that_made_the_version(told: Session) -> None:
    log = story()
    resolved = resolve(told, "cola@prod~1")
    assert (resolved.number, resolved.id) == (3, log.entries[2].id)
    assert resolved.long == f"base/acceptability@v2 (c3 {log.entries[2].id[:8]})"


def test_an_id_leads_to_the_state_after_its_commit(told: Session) -> None:
    log = story()
    for digits in (8, 20, 64):
        assert resolve(told, f"@{log.entries[4].id[:digits]}").number == 5
        assert resolve(told, f"cola@{log.entries[4].id[:digits]}").ref == "base/acceptability@v2"


LOST: dict[str, tuple[type[ShareRegistryError], str, str]] = {
    "cole": (NotFoundError, "cole does not exist", "acceptability"),
    "nowhere/cola": (NotFoundError, "space 'nowhere' does not exist", "base"),
    "cola@v9": (NotFoundError, "has no v9", "log"),
    "cola@v1~1": (NotFoundError, "has 3 versions", "log"),
    "cola@v1~900": (NotFoundError, "has 3 versions", "log"),
    "cola~3": (NotFoundError, "has 3 versions", "log"),
    "cola@prd": (NotFoundError, "no alias", "Did you mean prod"),
    "cola@relaese": (NotFoundError, "no tag", "Did you mean release"),
    "@relaese": (NotFoundError, "no tag", "Did you mean release"),
    "cola@prod~3": (NotFoundError, "has had 3 targets", "alias_history"),
    "cola@c1": (NotFoundError, "did not exist at c1", "c2"),
    "cola@c17": (NotFoundError, "has no c17", "log"),
    "@c17": (NotFoundError, "has no c17", "log"),
    "@c1~1": (NotFoundError, "has no c0", "log"),
    "@latest~16": (NotFoundError, "has no c0", "log"),
    "cola@2026-10-31": (NotFoundError, "begins later", "later time"),
    "cola@2026-11-01T01:30": (NotFoundError, "did not exist at c1", "c2"),
    "sst2@c12": (NotFoundError, "was dropped in c10", "sst2@v1"),
    "cola@00000000": (NotFoundError, "no commit of space base", "log"),
    "@v3": (InvalidInputError, "version of a whole space", "cola@v3"),
    "cola@2026-13-01": (InvalidInputError, "calendar", ""),
    "": (InvalidInputError, "not [space/]task", "Examples"),
    "a/b/c": (InvalidInputError, "not [space/]task", "Examples"),
    "../cola": (InvalidInputError, "", ""),
    "cola@'; DROP TABLE sr_spaces --": (InvalidInputError, "", ""),
}


@pytest.mark.parametrize("text", LOST)
def test_a_reference_that_leads_nowhere_says_why_and_what_to_do(told: Session, text: str) -> None:
    error, message, hint = LOST[text]
    with pytest.raises(error) as raised:
        resolve(told, text)
    assert message in raised.value.message
    assert hint in raised.value.hint
    assert raised.value.hint


def test_a_dropped_task_keeps_its_versions(told: Session) -> None:
    log = story()
    log.drop("acceptability")
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        with pytest.raises(NotFoundError, match="was dropped in c17") as raised:
            resolve(session, "cola")
        assert "restore('base/acceptability@v3')" in raised.value.hint
        with pytest.raises(NotFoundError, match="was dropped in c17"):
            version_of(session, "cola")
        assert version_of(session, "cola@v2").ref == "base/acceptability@v2"
        assert resolve(session, "cola@v2").version == 2
        assert resolve(session, "cola@prod").version == 3
        assert resolve(session, "cola@c16").version == 3
        assert resolve_task(session, "cola").version == 3


def test_a_removed_alias_says_what_it_was() -> None:
    log = story()
    del log.entries[12:]
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        with pytest.raises(NotFoundError, match="was removed in c12") as raised:
            resolve(session, "cola@prod")
        assert "v2" in raised.value.hint
        assert resolve(session, "cola@prod~1").version == 2
        assert resolve(session, "cola@prod~2").version == 1


def test_an_alias_moved_to_where_it_was_counts_once() -> None:
    log = Log()
    log.create()
    for version in (1, 2):
        log.absorb("cola", version)
    for target in (1, 1, 2, None, 2, 1):
        log.alias("cola", "prod", target)
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        assert [resolve(session, f"cola@prod~{back}").version for back in range(3)] == [1, 2, 1]
        with pytest.raises(NotFoundError):
            resolve(session, "cola@prod~3")


def test_an_ambiguous_id_names_the_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    log = story()
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        from sqlalchemy import text

        for number, digits in ((5, "1"), (6, "2")):
            session.execute(
                text("UPDATE sr_commits SET id = :id WHERE number = :number"),
                {"id": "abcdef01" + digits * 56, "number": number},
            )
        with pytest.raises(
            InvalidInputError, match="ambiguous: c5 abcdef0111111111, c6 abcdef0122222222"
        ):
            resolve(session, "@abcdef01")
        assert resolve(session, "@abcdef011").number == 5


def test_without_a_name_the_only_space_is_meant() -> None:
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        with pytest.raises(RefusedError, match="there is no space yet"):
            space_of(session, None)
        story().apply(session)
        assert space_of(session, None) == "base"
        log = Log(space="other")
        log.create()
        log.apply(session)
        with pytest.raises(RefusedError, match="there are 2: base, other"):
            resolve(session, "@c1")
        assert resolve(session, "cola").space == "base"
        log.absorb("cola", 1)
        log.apply(session)
        with pytest.raises(RefusedError, match="several have a task 'cola'"):
            resolve(session, "cola")
        assert resolve(session, "cola", space="base").space == "base"
        assert resolve(session, "base/cola", space="other").space == "base"


def test_a_version_is_asked_where_a_space_is_given(told: Session) -> None:
    with pytest.raises(InvalidInputError, match="whole space"):
        resolve_version(told, "@c3")
    assert resolve_version(told, "cola@c3").version == 2


def test_only_a_task_is_asked_where_a_version_is_given(told: Session) -> None:
    for text in ("cola@v1", "@c3", "cola~1"):
        with pytest.raises(InvalidInputError):
            resolve_task(told, text)
    with pytest.raises(NotFoundError):
        resolve_task(told, "nix")


def test_a_moment_leads_to_a_commit(told: Session) -> None:
    numbers = {
        at: number_of(told, at, space=space_of(told, None))
        for at in ("c4", "@c4", "release", "2026-11-01T04:30", "2026-11-01", "latest")
    }
    assert numbers == {
        "c4": 4,
        "@c4": 4,
        "release": 3,
        "2026-11-01T04:30": 4,
        "2026-11-01": 16,
        "latest": 16,
    }
    with pytest.raises(NotFoundError):
        number_of(told, str(digest_of("nothing")), space=space_of(told, None))


@pytest.mark.parametrize(
    ("typed", "first", "last"),
    [
        ("2026-11-16", "2026-11-16T00:00:00.000000Z", "2026-11-16T23:59:59.999999Z"),
        ("2026-11-16T12:30", "2026-11-16T12:30:00.000000Z", "2026-11-16T12:30:59.999999Z"),
        ("2026-11-16 12:30:05+01:00", "2026-11-16T11:30:05.000000Z", "2026-11-16T11:30:05.999999Z"),
        ("2026-11-16T12:30:05.25Z", "2026-11-16T12:30:05.250000Z", "2026-11-16T12:30:05.250000Z"),
    ],
)
def test_a_time_reaches_from_its_beginning_to_its_end(typed: str, first: str, last: str) -> None:
    assert (beginning_of(typed), end_of(typed)) == (first, last)
    assert parse_reference(f"cola@{typed}").value == last


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("cola@v0", "not a version or a commit"),
        ("cola@v01", "not a version or a commit"),
        ("cola@V1", "not a version or a commit"),
        ("c" * 300, "at most 256"),
    ],
)
def test_a_reference_that_cannot_be_read_says_what_it_was_read_as(typed: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        parse_reference(typed)
