"""A record is published while the transaction is open, and the catalog keeps it only then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError

import share_registry as sr
from share_registry.outside.files import Outside
from share_registry.registry.commands import commit as commits, publish
from share_registry.registry.commands.commit_batch import encode_adapters
from share_registry.registry.opening import open_context
from tests.cli.tiny import SPACE, write_adapter

RACES: Final = 3


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


class Hooked(Outside):
    """The outside of a registry that is opened over any catalog; waiting takes no time."""

    def __init__(self, hook: Callable[[str], None] | None = None) -> None:
        super().__init__(hook)
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)


def opened(url: str, store: Path, outside: Outside | None = None) -> sr.Registry:
    return sr.Registry(
        open_context(url, store=store, space=None, mode="c", outside=outside or Hooked())[0]
    )


def test_who_loses_a_race_publishes_again_what_was_encoded_once(
    tmp_path: Path,
    catalog_url: str,
    new_catalog_url: Callable[[str], str],
    adapter: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever was faster took nothing away that the loser is coded against."""
    apart, store = new_catalog_url("sqlite"), tmp_path / "store"
    encoded: list[int] = []

    def encode_and_count(*arguments: Any, **options: Any) -> Any:
        encoded.append(1)
        return encode(*arguments, **options)

    def be_faster(point: str) -> None:
        if point == "record.postfsync" and len(faster) < RACES:
            faster.append(f"faster-{len(faster)}")
            with opened(apart, store) as rival:
                rival.set_alias("first@v1", faster[-1])

    encode, faster = encode_adapters, ["made below"] * RACES
    outside = Hooked(be_faster)
    with opened(catalog_url, store, outside) as registry:
        registry.commit(adapter, task="first")
        monkeypatch.setattr(commits, "encode_adapters", encode_and_count)
        faster.clear()
        commit = registry.commit(write_adapter(tmp_path / "second", seed=2))
        assert (len(encoded), len(faster), len(outside.waits)) == (1, RACES, RACES)
        assert commit.number == 3 + RACES
        assert registry.verify("deep").ok


def test_pauses_between_races_grow_to_a_bound_and_differ(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = Hooked()
    with opened(f"sqlite:///{tmp_path}/c.sqlite", tmp_path / "store", outside) as registry:
        registry.commit(adapter, task="first")
        monkeypatch.setattr(publish, "_create_record", lambda *_: False)
        with pytest.raises(sr.ConflictError, match="were faster 200 times"):
            registry.set_alias("first@v1", "prod")
    assert len(outside.waits) == 200
    assert max(outside.waits[:5]) < 0.05
    assert 0.5 < max(outside.waits) < 0.75
    assert len({*outside.waits}) > 190
    assert sum(outside.waits) < 100


def test_a_connection_that_is_lost_behind_the_record_is_no_failed_commit(
    tmp_path: Path, postgresql_url: str, adapter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the COMMIT of the catalog arrived matters to nobody: the record is there."""

    def cut(point: str) -> None:
        if point == "commit.catalog" and cuts.pop():
            engine = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
                )
            engine.dispose()

    cuts = [False, True, False, False]
    with opened(postgresql_url, tmp_path / "store", Hooked(cut)) as registry:
        registry.commit(adapter, task="first", idempotency_key="one")
        commit = registry.commit(adapter, task="first", idempotency_key="two", allow_duplicate=True)
        assert "could not follow yet" in caplog.text
        assert (commit.created, commit.version) == (True, 2)
        again = registry.commit(adapter, task="first", idempotency_key="two", allow_duplicate=True)
        assert (again.created, again.id) == (False, commit.id)
        assert [entry.key for entry in registry.log(kind="absorb")] == ["two", "one"]
