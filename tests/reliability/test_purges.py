"""A purge that dies at any step, and writers beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest

import share_registry as sr
from share_registry.outside.files import Outside
from share_registry.registry.opening import open_context
from tests.conftest import url_of
from tests.registry.planted import write_planted
from tests.registry.purging import SECRET, continued, exports_of, holding, secret_of, small

POINTS = (
    "purge.stored",
    "obj.linked",
    "commit.publish",
    "record.linked",
    "commit.catalog",
    "purge.recorded",
    "purge.removing",
    "gc.unlink",
)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return write_planted(tmp_path / "adapters", 4, modules=2, width=96)


@pytest.fixture(params=("sqlite", "postgresql"))
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., sr.Registry]:
    """Open the same registry again and again, with hooks of their own."""
    url = url_of(request, tmp_path)

    def make(hook: Callable[[str], None] | None = None) -> sr.Registry:
        context, _ = open_context(
            url, store=tmp_path / "store", space=None, mode="c", outside=Outside(hook)
        )
        registry = sr.Registry(context)
        request.addfinalizer(registry.close)
        return registry

    return make


class DiedError(Exception):
    """The process ended there."""


@pytest.mark.parametrize("point", POINTS)
def test_a_purge_that_dies_is_run_again(
    opened: Callable[..., sr.Registry], folders: dict[str, Path], tmp_path: Path, point: str
) -> None:
    first = opened()
    small(first, folders)
    first.commit(secret_of(folders["t00"]), task="t00", message=SECRET, keep_original=True)
    exports = exports_of(first, tmp_path / "before", without="t00")
    passed: list[str] = []

    def hook(name: str) -> None:
        passed.append(name)
        if name == point:
            raise DiedError(name)

    dying = opened(hook)
    with pytest.raises(DiedError):
        dying.purge("t00", dry_run=False)
    after = opened()
    assert after.verify("deep").ok
    assert exports_of(after, tmp_path / "between", without="t00") == exports
    after.purge("t00", dry_run=False)
    assert holding(tmp_path / "store", SECRET.encode()) == []
    assert [commit.kind for commit in after.log(limit=None)].count("purge") == 1
    assert after.gc(grace_days=0, dry_run=False) is not None
    assert after.gc(grace_days=0).garbage == ()
    assert after.verify("deep").ok
    assert exports_of(after, tmp_path / "after", without="t00") == exports


def test_a_purge_that_dies_at_every_removal_is_finished(
    opened: Callable[..., sr.Registry], folders: dict[str, Path], tmp_path: Path
) -> None:
    """What names others goes last, so that the next run knows what is left."""
    first = opened()
    small(first, folders)
    first.commit(secret_of(folders["t00"]), task="t00", message=SECRET, keep_original=True)
    removals = 0

    def hook(name: str) -> None:
        if name == "gc.unlink":
            raise DiedError(name)

    def dies() -> bool:
        try:
            opened(hook).purge("t00", dry_run=False)
        except DiedError:
            return True
        return False

    while dies():
        removals += 1
        assert removals < 60, "it removes what is gone"
    assert removals > 6
    assert holding(tmp_path / "store", SECRET.encode()) == []
    assert opened().verify("deep").ok
    assert opened().gc(grace_days=0).garbage == ()


@pytest.mark.parametrize("point", ["purge.stored", "purge.recorded", "purge.removing"])
def test_a_commit_that_comes_in_between_is_whole(
    opened: Callable[..., sr.Registry], folders: dict[str, Path], point: str
) -> None:
    """It is built upon the task, and the task goes all the same."""
    writer = opened()
    small(writer, folders)
    further = [continued(folders["t00"], 8), continued(folders["t00"], 9)]
    commits: list[sr.Commit] = []

    def hook(name: str) -> None:
        # under the lock of the purge, a writer would wait for it
        if name == point and point != "purge.removing" and not commits:
            commits.append(writer.commit(further[0], task="late", derived_from=["child@v1"]))

    opened(hook).purge("t00", dry_run=False)
    commits.append(writer.commit(further[1], task="later", derived_from=["child@v1"]))
    assert writer.verify("deep").ok
    assert writer.gc(grace_days=0, dry_run=False).objects
    assert writer.verify("deep").ok
    assert all(writer.checkout(commit.ref).tensors for commit in commits)
    with pytest.raises(sr.NotFoundError, match="purged it"):
        writer.checkout("t00@v1")


def test_a_commit_that_was_coded_before_is_coded_again(
    opened: Callable[..., sr.Registry], folders: dict[str, Path]
) -> None:
    """What it was coded against is in the store still, but was purged, or replaced."""
    small(opened(), folders)
    other = opened()
    done: list[object] = []

    def hook(name: str) -> None:
        if name == "obj.linked" and not done:
            done.append(name)
            done.append(other.purge("t00", dry_run=False))

    writer = opened(hook)
    further = continued(folders["t00"], 8)
    with pytest.raises(sr.ConflictError, match="Run it again"):
        writer.commit(further, task="late", derived_from=["t00@v1"])
    assert len(done) == 2
    assert writer.commit(further, task="late", derived_from=["t00@v1"]).created
    assert writer.verify("deep").ok


def test_a_prepared_adapter_that_was_coded_before_is_coded_again(
    opened: Callable[..., sr.Registry], folders: dict[str, Path]
) -> None:
    registry = opened()
    small(registry, folders)
    prepared = registry.prepare(continued(folders["t00"], 8), task="late", derived_from=["t00@v1"])
    registry.purge("t00", dry_run=False)
    assert registry.publish([prepared]).created
    assert registry.verify("deep").ok
