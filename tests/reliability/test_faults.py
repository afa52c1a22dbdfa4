"""Whichever system call fails, the error is the documented one and nothing acknowledged is lost.

The next commit works (P4, P5).
"""

import errno
from pathlib import Path
from typing import Final

import pytest

from share_registry.errors import StoreError
from share_registry.format.canonical import sha256
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from share_registry.store.protocol import PublishStateUnknownError
from share_registry.testing.stores import FIRST, SPACE
from tests.reliability.faults import (
    ERRORS,
    LOST_REPLY,
    SHORT,
    Failing,
    Plan,
    from_then_on,
    once,
    survives_a_race,
    survives_faults,
)
from tests.reliability.scenarios import IDENTITY, POINTS, NoFlush, World

FEWEST_CALLS: Final = 60


def _label(value: object) -> str:
    return (
        {SHORT: "short", LOST_REPLY: "lost-reply"}.get(value, errno.errorcode.get(value, "?"))
        if isinstance(value, int)
        else getattr(value, "__name__", "?")
    )


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        *((once, code) for code in (*ERRORS, SHORT, LOST_REPLY)),
        *((from_then_on, code) for code in (errno.ENOSPC, errno.EIO, SHORT)),
    ],
    ids=_label,
)
def test_any_call_may_fail(quick_path: Path, plan: Plan, code: int) -> None:
    assert survives_faults(World(), quick_path, plan, code) >= FEWEST_CALLS


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_store_whose_creation_failed_can_be_created_again(quick_path: Path, code: int) -> None:
    n = 1
    while True:
        root = quick_path / f"{n}" / "registry"
        system = Failing(once(n, code))
        try:
            LocalStore.create(root, Outside(system=system), IDENTITY)
        except StoreError:
            store = LocalStore.create(root, Outside(system=NoFlush()), IDENTITY)
            assert store.publish(SPACE, FIRST, b"record")
        if len(system.calls) < n:
            break
        n += 1
    assert n > FEWEST_CALLS


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (errno.ENOSPC, "space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "mode 'r'"),
        (errno.EACCES, "permissions"),
        (errno.EMFILE, "ulimit"),
    ],
)
def test_the_error_says_what_to_do_next(quick_path: Path, code: int, hint: str) -> None:
    LocalStore.create(quick_path, Outside(), IDENTITY)
    store = LocalStore(quick_path, Outside(system=Failing(from_then_on(20, code))))
    with pytest.raises(StoreError, match=hint):
        store.put(b"weights", sha256(b"weights"))


@pytest.mark.parametrize("point", [point for point in POINTS if point.startswith("record")])
def test_another_commit_in_between_is_neither_overwritten_nor_in_the_way(
    quick_path: Path, point: str
) -> None:
    survives_a_race(World(), quick_path, point)


def _failing_after_the_link(root: Path) -> LocalStore:
    LocalStore.create(root, Outside(), IDENTITY)
    system = Failing(
        lambda call: (
            errno.EIO if "link" in system.calls[:-1] and system.calls[-1] == "fsync" else None
        )
    )
    return LocalStore(root, Outside(system=system))


def test_a_flush_that_fails_behind_the_link_is_an_unknown_outcome_and_removes_nothing(
    quick_path: Path,
) -> None:
    store = _failing_after_the_link(quick_path)
    with pytest.raises(PublishStateUnknownError, match="may or may not"):
        store.publish(SPACE, FIRST, b"record")
    assert store.record(SPACE, FIRST) == b"record"
    assert list((quick_path / "tmp").iterdir()) == []
