"""What writers ask of the catalog."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import aliases, lookups, version_lookups
from share_registry.catalog.queries.name_claims import claims_of_aliases, claims_of_reference
from share_registry.names import TaskName
from tests.catalog.logs import Log, digest_of, story


@pytest.fixture
def session(catalog_url: str) -> Iterator[Session]:
    with Catalog.open(catalog_url, store_id="store") as catalog:
        with catalog.begin(write=True) as session:
            story().apply(session)
        with catalog.begin() as session:
            yield session


def test_a_space_is_known_by_its_row(session: Session) -> None:
    row = lookups.space_row(session, "base")
    assert row is not None
    assert (row.base_model, row.base_revision, row.base_labels) == (
        "org/base",
        "main",
        ("org/base-mirror",),
    )
    assert (row.budget, row.keep_original, row.references, row.head) == (0.1, False, True, 16)
    assert lookups.space_row(session, "nix") is None
    assert lookups.head(session, "nix") is None
    assert lookups.space_names(session) == ["base"]


def test_a_commit_is_found_by_its_key(session: Session) -> None:
    assert lookups.commit_of_key(session, "base", "key-7") == 7
    assert lookups.commit_of_key(session, "base", "nix") is None
    assert lookups.commit_of_key(session, "other", "key-7") is None


def test_a_task_is_found_by_any_name_it_had(session: Session) -> None:
    assert (
        lookups.current_name(session, "base", "cola")
        == lookups.current_name(session, "base", "acceptability")
        == "acceptability"
    )
    assert lookups.current_name(session, "base", "nix") is None
    assert lookups.task_names(session, "base") == ["acceptability", "mnli", "sst2"]


def test_the_newest_version_is_found_under_any_name(session: Session) -> None:
    latest = version_lookups.latest_version(session, "base", "cola")
    assert latest is not None
    assert latest == version_lookups.version_row(session, "base", "acceptability", 3)
    assert (latest.ref, latest.live, latest.latest, latest.commit_id) == (
        "base/acceptability@v3",
        True,
        3,
        story().entries[10].id,
    )
    assert (latest.source_location, latest.source_kind, latest.remarks) == (
        "/adapters/cola",
        "directory",
        ("remark on cola",),
    )
    assert version_lookups.latest_version(session, "base", "nix") is None
    assert version_lookups.version_row(session, "base", "cola", 4) is None


def test_the_newest_versions_of_the_live_tasks_are_found(session: Session) -> None:
    assert [version.ref for version in version_lookups.latest_versions(session, "base")] == [
        "base/acceptability@v3",
        "base/sst2@v2",
        "base/mnli@v1",
    ]
    assert [version.ref for version in version_lookups.last_absorbed(session, "base", 2)] == [
        "base/acceptability@v3",
        "base/sst2@v2",
    ]
    assert lookups.live_tasks(session, "base") == 3
    assert (
        version_lookups.latest_versions(session, "nix")
        == version_lookups.last_absorbed(session, "nix", 2)
        == []
    )
    assert lookups.live_tasks(session, "nix") == 0


def test_dropped_tasks_are_not_among_the_live_ones() -> None:
    log = story()
    log.drop("mnli")
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        assert [version.ref for version in version_lookups.latest_versions(session, "base")] == [
            "base/acceptability@v3",
            "base/sst2@v2",
        ]
        assert lookups.live_tasks(session, "base") == 2


def test_a_dropped_task_still_has_a_newest_version() -> None:
    log = story()
    log.drop("mnli")
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        latest = version_lookups.latest_version(session, "base", "mnli")
        assert latest is not None
        assert (latest.version, latest.live) == (1, False)


def test_aliases_and_tags_are_found(session: Session) -> None:
    prod = lookups.alias_target(session, "base", "cola", "prod")
    assert prod is not None
    assert prod.version == 3
    assert lookups.alias_target(session, "base", "cola", "nix") is None
    assert lookups.alias_target(session, "base", "mnli", "prod") is None
    assert lookups.is_alias(session, "base", "prod")
    assert lookups.tag_names(session, "base") == {"release"}
    tag = lookups.tag_target(session, "base", "release")
    assert tag is not None
    assert (tag.number, tag.since) == (3, 6)
    assert lookups.tag_target(session, "base", "nix") is None


def test_labels_and_metrics_are_found(session: Session) -> None:
    assert set(lookups.labels_of(session, "base", "cola", 2)) == {"team"}
    assert set(lookups.metrics_of(session, "base", "cola", 2)) == {"accuracy"}
    assert lookups.labels_of(session, "base", "cola", 1) == {"team": "search"}
    assert lookups.metrics_of(session, "base", "mnli", 1) == {}


def test_candidates_are_the_first_and_the_latest_distinct_adapters() -> None:
    log = Log()
    log.create()
    for number in range(1, 7):
        log.absorb(f"task{number}", 1, content=number)
    log.restore("task1", 2, of=1)
    adapters = [digest_of("adapter", f"task{number}", 1, number) for number in range(1, 7)]
    with Catalog.in_memory() as catalog, catalog.begin(write=True) as session:
        log.apply(session)
        candidates = version_lookups.candidate_adapters(session, "base", first=2, latest=2)
        assert candidates == [adapters[0], adapters[1], adapters[5], adapters[4]]
        assert version_lookups.candidate_adapters(session, "base", first=4, latest=4) == [
            *adapters[:4],
            adapters[5],
            adapters[4],
        ]
        assert version_lookups.candidate_adapters(session, "base", first=0, latest=1) == [
            adapters[5]
        ]
        assert version_lookups.candidate_adapters(session, "nix", first=2, latest=2) == []
        assert version_lookups.commit_of_adapter(session, "base", adapters[0]) == 2
        assert version_lookups.commit_of_adapter(session, "base", digest_of("nothing")) is None


def test_the_claims_of_an_alias_are_those_of_any_name_of_its_task(session: Session) -> None:
    named = aliases.aliases(session)
    assert any(alias.task == "acceptability" for alias in named)
    for given in (named, [replace(alias, task=TaskName("cola")) for alias in named]):
        listed = [alias for alias in given if alias.task in ("acceptability", "cola")]
        assert claims_of_aliases(session, listed) == [
            claims_of_reference(session, f"base/{alias.task}@{alias.name}", space=None)
            for alias in listed
        ]
