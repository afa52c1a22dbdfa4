"""What the record, the catalog and reading promise, on both databases, and that each check notices.

Every check is run on the library as it is, and on a library with the fault that it is there for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, Final

import pytest
import torch
import zstandard
from sqlalchemy import text

import share_registry as sr
from share_registry.catalog import catalog as catalogs
from share_registry.catalog.catalog import Catalog
from share_registry.catalog.engine import for_transactions
from share_registry.errors import ShareRegistryError
from share_registry.format import frames
from share_registry.names import CommitNumber, SpaceName
from share_registry.outside.files import Outside
from share_registry.registry import context as contexts, log_ends, sync
from share_registry.registry.commands import commit_plan, preconditions, publish
from share_registry.registry.opening import open_context
from share_registry.store.local import LocalStore
from share_registry.store.protocol import object_name, record_name
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.scenarios import NoFlush
from tests.reliability.writer import LostError

A_WHILE_S: Final = 0.3
"""What a writer that does not wait for another one needs, several times over."""
URLS = Callable[[str], str]


@dataclass(kw_only=True)
class Place:
    """Where a check works.

    Attributes:
        url: A catalog.
        apart: A second one of the same store, of a writer elsewhere.
    """

    top: Path
    url: str
    apart: str
    adapters: list[Path] = field(default_factory=list)

    def opened(
        self, *, apart: bool = False, outside: Outside | None = None, mode: str = "c"
    ) -> sr.Registry:
        """Open the registry with one of its catalogs."""
        torch.set_num_threads(1)  # a fork child has no threads to wait for
        return sr.Registry(
            open_context(
                self.apart if apart else self.url,
                store=self.top / "store",
                space=None,
                mode=mode,
                outside=outside or Outside(system=NoFlush()),
            )[0]
        )

    def record(self, number: int) -> Path:
        """Return the file of a record."""
        return self.top / "store" / record_name(SpaceName(SPACE), CommitNumber(number))


@pytest.fixture
def place(tmp_path: Path, catalog_url: str, new_catalog_url: URLS) -> Place:
    """A registry with two commits, and adapters for more."""
    adapters = [write_adapter(tmp_path / f"t{seed}", seed=seed) for seed in range(3)]
    place = Place(top=tmp_path, url=catalog_url, apart=new_catalog_url("sqlite"), adapters=adapters)
    with place.opened() as registry:
        registry.commit(adapters[0], budget=0, idempotency_key="first")
    return place


def no_record_fills_a_hole(place: Place) -> None:
    """A record that was lost leaves its number free; who knows no more must not take it."""
    with place.opened(apart=True) as elsewhere:
        for number in range(3):
            elsewhere.set_alias("t0@v1", f"alias-{number}")
    # the third record; the catalog of the other writer ends with the second
    place.record(3).rename(place.top / "kept")
    with place.opened() as registry:
        try:
            registry.set_alias("t0@v1", "mine")
        except sr.IntegrityError as error:
            if "c3" not in error.message or "c4" not in error.message:
                raise LostError(f"the error does not say what is lost: {error}") from error
        if place.record(3).exists():
            raise LostError("a record was published in place of one that was lost")
        (place.top / "kept").rename(place.record(3))
        registry.set_alias("t0@v1", "mine")
        if registry.log(limit=1)[0].number != 6:
            raise LostError("the log does not go on behind what came back")


def a_key_makes_one_commit(place: Place, *, apart: bool, point: str) -> None:
    """Another process makes the commit of the same key while this one is at a point of it."""
    rivals: list[sr.Commit] = []

    def hook(passed: str) -> None:
        if passed == point and not rivals:
            with place.opened(apart=apart) as rival:
                rivals.append(_commit_one(rival, place))

    outside = Outside(hook, system=NoFlush())
    with place.opened(outside=outside) as registry:
        commit, again = (_commit_one(registry, place) for _ in range(2))
        log = registry.log(SPACE, kind="absorb")
    assert rivals[0].created
    if [entry.key for entry in log] != ["one", "first"]:
        raise LostError("the commit of a key was made again")
    for later in (commit, again):
        if later.created or later.id != rivals[0].id:
            raise LostError("the commit that is there was not the answer")


def _commit_one(registry: sr.Registry, place: Place) -> sr.Commit:
    return registry.commit(place.adapters[1], budget=0, idempotency_key="one", allow_duplicate=True)


def a_key_belongs_to_its_source(place: Place) -> None:
    """The key of a commit with another adapter is a conflict, and nothing is committed."""
    with place.opened() as registry:
        before = registry.log(limit=1)[0].number
        try:
            registry.commit(place.adapters[1], task="t0", idempotency_key="first")
        except sr.ConflictError:
            if registry.log(limit=1)[0].number == before:
                return
        raise LostError("the key of another adapter's commit was taken for this one's")


class Clock(Outside):
    """A clock that was set back by a year, and goes backwards."""

    at_present = datetime.now(UTC) - timedelta(days=365)

    def now(self) -> datetime:
        self.at_present -= timedelta(days=1)
        return self.at_present


def time_never_goes_back(place: Place) -> None:
    """A record is never older than the one before it, whatever the clock says."""
    with place.opened(outside=Clock(system=NoFlush())) as registry:
        for number in range(3):
            registry.set_alias("t0@v1", f"alias-{number}")
        times = [commit.time for commit in registry.log()]
    if times != sorted(times, reverse=True):
        raise LostError(f"time goes back: {times}")
    with place.opened(apart=True) as elsewhere:
        if [commit.time for commit in elsewhere.log()] != times:
            raise LostError("the log cannot be followed by another catalog")


def one_writer_at_a_time_is_at_a_head(place: Place) -> None:
    """While one is between its look at the head and its record, no other one comes that far."""
    second: list[Thread] = []
    passed: list[str] = []
    failures: list[ShareRegistryError] = []

    def hook(point: str) -> None:
        if point == "commit.publish" and not second:
            second.append(Thread(target=write, args=("second",)))
            second[0].start()
            second[0].join(timeout=A_WHILE_S)
            passed.append("first")

    def write(name: str) -> None:
        at = partial(note, name)
        try:
            with place.opened(outside=Outside(at, system=NoFlush())) as registry:
                registry.set_alias("t0@v1", name)
        except ShareRegistryError as error:
            failures.append(error)

    def note(name: str, point: str) -> None:
        if point == "commit.publish":
            passed.append(name)

    with place.opened(outside=Outside(hook, system=NoFlush())) as registry:
        registry.set_alias("t0@v1", "first")
        second[0].join(timeout=60)
        if passed != ["first", "second"] or failures:
            raise LostError(f"two writers were at one head: {passed}, {failures}")
        if [alias.name for alias in registry.aliases()] != ["first", "second"]:
            raise LostError("a commit is lost")


def what_is_read_is_hashed(place: Place) -> None:
    """An object with a bit turned over is not what its name says, whoever asks."""
    with place.opened() as registry:
        store = registry.context.store
        for digest, _ in [*store.objects()]:
            path = place.top / "store" / object_name(digest)
            sound = path.read_bytes()
            path.chmod(0o644)
            path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
            try:
                store.get(digest)
            except sr.IntegrityError:
                path.write_bytes(sound)
            else:
                raise LostError(f"object {digest} was read with other bytes")


def nothing_stands_behind_a_frame(_: Place) -> None:
    """Bytes behind a frame belong to nobody: two readers would take them differently."""
    frame = frames.compress(b"weights" * 100, level=1)
    for behind in (b"\0", frame, zstandard.compress(b"")):
        try:
            frames.expand(frame + behind, 700, subject="a piece")
        except sr.IntegrityError:
            continue
        raise LostError("bytes behind a frame were accepted")


def a_catalog_follows_the_log_alone(place: Place) -> None:
    """A head that is not the store's is no head: the catalog is made again."""
    with Catalog.open(place.url, mode="w") as catalog, catalog.begin(write=True) as session:
        session.execute(text("UPDATE sr_spaces SET head_id = :id"), {"id": "0" * 64})
    with place.opened() as registry:
        registry.set_alias("t0@v1", "prod")
        if [commit.number for commit in registry.log()] != [3, 2, 1]:
            raise LostError("the log that is shown is not the store's")
    with place.opened(apart=True) as elsewhere:
        if [commit.number for commit in elsewhere.log()] != [3, 2, 1]:
            raise LostError("the log does not follow from the head before")


Check = Callable[[Place], None]
CHECKS: Final[dict[str, Check]] = {
    "holes": no_record_fills_a_hole,
    "key before": partial(a_key_makes_one_commit, apart=False, point="obj.dirsync"),
    "key of a winner": partial(a_key_makes_one_commit, apart=True, point="record.postfsync"),
    "key of another": a_key_belongs_to_its_source,
    "time": time_never_goes_back,
    "head": one_writer_at_a_time_is_at_a_head,
    "hashes": what_is_read_is_hashed,
    "frames": nothing_stands_behind_a_frame,
    "foreign heads": a_catalog_follows_the_log_alone,
}


@pytest.mark.parametrize("name", CHECKS)
def test_it_holds(place: Place, name: str) -> None:
    CHECKS[name](place)


Plant = Callable[[pytest.MonkeyPatch], None]


def holes_are_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    # looked for when the catalog follows the log, and again before a record is published
    patch.setattr(contexts.Context, "require_end", lambda *_: None)
    patch.setattr(publish, "check_end", lambda *_: None)


def keys_are_not_looked_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(publish, "commit_of_key", lambda *_: None)


def keys_are_taken_for_any_source(patch: pytest.MonkeyPatch) -> None:
    real = preconditions.commit_of_key
    for module in (publish, commit_plan):
        patch.setattr(
            module, "commit_of_key", lambda session, space, key, _: real(session, space, key, None)
        )


def time_is_what_the_clock_says(patch: pytest.MonkeyPatch) -> None:
    def place_after(context: Any, space: Any, head: Any, *rest: Any) -> Any:
        return real(context, space, head and replace(head, time=""), *rest)

    real = publish._place_after
    patch.setattr(publish, "_place_after", place_after)


def the_head_is_read_without_a_lock(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(catalogs, "take_write_lock", lambda *_: None)
    real = for_transactions
    patch.setattr(catalogs, "for_transactions", lambda bind, **_: real(bind, write=False))


def hashes_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        LocalStore,
        "get",
        lambda store, digest, *, limit=1 << 30: store._outside.read(
            store._root / object_name(digest), limit=limit
        ),
    )


def the_rest_of_a_frame_is_ignored(patch: pytest.MonkeyPatch) -> None:
    class Lenient:
        def decompress(self, frame: bytes, **options: Any) -> bytes:
            return real().decompress(frame, **options | {"allow_extra_data": True})

    real = zstandard.ZstdDecompressor
    patch.setattr(zstandard, "ZstdDecompressor", Lenient)


def heads_are_not_compared(patch: pytest.MonkeyPatch) -> None:
    def compare_heads(*arguments: Any) -> Any:
        return replace(real(*arguments), foreign=[])

    real = log_ends.compare_heads
    patch.setattr(sync, "compare_heads", compare_heads)


PLANTS: Final[list[tuple[Plant, str]]] = [
    (holes_are_not_looked_for, "holes"),
    (keys_are_not_looked_up, "key before"),
    (keys_are_not_looked_up, "key of a winner"),
    (keys_are_taken_for_any_source, "key of another"),
    (time_is_what_the_clock_says, "time"),
    (the_head_is_read_without_a_lock, "head"),
    (hashes_are_not_compared, "hashes"),
    (the_rest_of_a_frame_is_ignored, "frames"),
    (heads_are_not_compared, "foreign heads"),
]


@pytest.mark.parametrize(
    ("plant", "name"), PLANTS, ids=[f"{plant.__name__}-{name}" for plant, name in PLANTS]
)
def test_a_planted_fault_is_noticed(
    place: Place, plant: Plant, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises((LostError, ShareRegistryError)):
        CHECKS[name](place)
