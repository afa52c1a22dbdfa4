"""What refits and merges do to the rows, and which of them cannot follow."""

from collections.abc import Callable

import pytest

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.errors import IntegrityError
from tests.catalog.filled import apply
from tests.catalog.logs import Log


def test_a_re_expressed_version_has_what_was_said_of_the_one_before() -> None:
    log = Log()
    log.create()
    log.absorb("cola", 1, labels={"team": "search"}, metrics={"accuracy": "0.9"})
    log.refit({"cola": 2})
    with Catalog.in_memory() as catalog:
        apply(catalog, log)
        with catalog.begin() as session:
            before, after = (
                version_lookups.version_row(session, "base", "cola", version) for version in (1, 2)
            )
            assert before is not None
            assert after is not None
            assert (after.note_digest, after.config_digest, after.remarks) == (
                before.note_digest,
                before.config_digest,
                before.remarks,
            )
            assert (after.error, after.bound, after.before, after.budget, after.norm) == (
                0.06,
                True,
                0.049,
                None,
                12.5,
            )
            assert lookups.labels_of(session, "base", "cola", 2) == {"team": "search"}
            assert lookups.metrics_of(session, "base", "cola", 2) == {}  # measured on other tensors


def test_the_basis_of_a_space_is_the_latest_that_a_commit_brought() -> None:
    log = Log()
    log.create()
    log.absorb("cola", 1)
    log.refit(name="first")
    log.absorb("sst2", 1)
    log.refit(name="second")
    with Catalog.in_memory() as catalog:
        apply(catalog, log)
        with catalog.begin() as session:
            assert lookups.current_basis(session, "base", at=2) is None
            numbers = [
                basis.number
                for at in (3, 4, None)
                if (basis := lookups.current_basis(session, "base", at=at)) is not None
            ]
            assert numbers == [3, 3, 5]


def _without_source(log: Log) -> None:
    log.refit({"cola": 2}, source="0" * 64)


def _of_a_dropped_task(log: Log) -> None:
    log.drop("cola")
    log.refit({"cola": 2})


def _of_an_unknown_task(log: Log) -> None:
    log.refit({"mnli": 1})


def _without_error_before(log: Log) -> None:
    log.refit({"cola": 2}, before=None)


def _with_a_weight_too_many(log: Log) -> None:
    entry = log.merge("both", 1, {("cola", 1): "1"})
    log.entries.pop()
    members = entry.record.model_dump(exclude_none=True) | {"weights": ["1", "2"]}
    log.add("merge", **{name: members[name] for name in ("method", "weights", "tasks")})


def _with_a_parent_that_is_not_there(log: Log) -> None:
    log.merge("both", 1, {("cola", 7): "1"})


@pytest.mark.parametrize(
    "wrong",
    [
        _without_source,
        _of_a_dropped_task,
        _of_an_unknown_task,
        _without_error_before,
        _with_a_weight_too_many,
        _with_a_parent_that_is_not_there,
    ],
)
def test_a_refit_or_merge_that_does_not_follow_is_refused(wrong: Callable[[Log], None]) -> None:
    log = Log()
    log.create()
    log.absorb("cola", 1)
    wrong(log)
    with Catalog.in_memory() as catalog, pytest.raises(IntegrityError):
        apply(catalog, log)
