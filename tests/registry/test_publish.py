"""A record is published while the transaction is open, and the catalog keeps it only then."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

import share_registry as sr
from share_registry.registry.commands import publish
from tests.cli.tiny import SPACE, write_adapter


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "cola", seed=1)


def test_a_catalog_that_fails_after_the_record_is_published_is_a_warning(
    registry: sr.Registry, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Committed is committed (spec COM-06).

    The next question finds it, and a retry makes no second one.
    """
    first = registry.commit(adapter, task="first")
    is_full = False

    def create(*arguments: object) -> bool:
        nonlocal is_full
        is_full = original(*arguments)  # type: ignore[arg-type]
        return is_full

    def fail(_: object) -> None:
        nonlocal is_full
        if is_full:
            is_full = False
            raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    original = publish._create_record
    event.listen(Engine, "commit", fail)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publish, "_create_record", create)
            commit = registry.commit(adapter, task="second", idempotency_key="one")
    finally:
        event.remove(Engine, "commit", fail)
    assert "could not follow yet" in caplog.text
    # the connection that is kept is out of the one that failed
    assert "within a transaction" not in caplog.text
    assert (commit.created, commit.number) == (True, first.number + 1)
    assert not registry.commit(adapter, task="second", idempotency_key="one").created
    assert registry.verify("deep").ok


def test_a_race_that_is_lost_at_the_last_moment_leaves_nothing_in_the_catalog(
    registry: sr.Registry, adapter: Path
) -> None:
    """Another writer's record comes between the look at the head and the creation of ours.

    Ours is taken back, and follows it.
    """
    registry.commit(adapter, task="first")
    lost: list[int] = []

    def lose_once(*arguments: object) -> bool:
        if not lost:
            lost.append(arguments[1].number)  # type: ignore[attr-defined]
            return False
        return original(*arguments)  # type: ignore[arg-type]

    original = publish._create_record
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publish, "_create_record", lose_once)
        commit = registry.commit(adapter, task="second")
    assert lost == [commit.number]
    assert [(entry.number, entry.task) for entry in registry.log(space=SPACE, kind="absorb")] == [
        (commit.number, "second"),
        (commit.number - 1, "first"),
    ]
    assert registry.verify("deep").ok


@pytest.mark.parametrize("part", ["parse_record", "Note.from_bytes"])
def test_what_a_reader_would_refuse_is_not_published(
    registry: sr.Registry, adapter: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Record and note are read back by the reader's own rules before (spec COM-09)."""
    first = registry.commit(adapter, task="first")

    def refuse(*_: object, **__: object) -> None:
        raise sr.IntegrityError("no reader takes this.")

    monkeypatch.setattr(f"share_registry.registry.commands.publish.{part}", refuse)
    with pytest.raises(sr.IntegrityError, match="no reader takes this"):
        registry.commit(adapter, task="second", message="why")
    monkeypatch.undo()
    assert registry.log(space=SPACE)[0].number == first.number
    assert registry.verify("deep").ok
