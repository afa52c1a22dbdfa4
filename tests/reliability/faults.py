"""Make the n-th system call of a run fail, for every n, and check what is left."""

import errno
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

from share_registry.errors import ShareRegistryError, StoreError
from share_registry.outside.files import Outside
from share_registry.store.local import LocalStore
from share_registry.store.protocol import PublishStateUnknownError
from tests.reliability.scenarios import IDENTITY, SHARED, NoFlush, World
from tests.reliability.writer import LostError, Writer, check, keys_of

Plan = Callable[[int, int], Callable[[int], int | None]]
"""From a call number and an error to a plan: from a call to what goes wrong there."""
SHORT: Final = -1
"""Not an error: the system writes half of what it was given."""
LOST_REPLY: Final = -2
"""The system does it, and says EIO."""
ERRORS: Final = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.EACCES)
VERBS: Final = (
    "open",
    "close",
    "read",
    "write",
    "fsync",
    "freeze",
    "status",
    "find",
    "link",
    "rename",
    "rename_new",
    "unlink",
    "mkdir",
    "listdir",
    "touch",
)


class Failing(NoFlush):
    """System calls of which some fail.

    Args:
        plan: From the number of a call to what goes wrong, None where nothing does.
    """

    def __init__(self, plan: Callable[[int], int | None]) -> None:
        self.plan = plan
        self.calls: list[str] = []
        self._condemned: set[int] = set()

    def failing(
        self, verb: str, real: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
    ) -> object:
        self.calls.append(verb)
        if verb == "fsync" and args[0] in self._condemned:
            raise LostError("a flush was tried again after it had failed")
        if verb == "close":
            self._condemned.discard(args[0])
        code = self.plan(len(self.calls))
        if code == SHORT and verb == "write":
            return real(self, args[0], args[1][: max(1, len(args[1]) // 2)])
        if code is None or code == SHORT:
            return real(self, *args, **options)
        if verb == "close" or code == LOST_REPLY:
            real(self, *args, **options)
        if verb == "fsync":
            self._condemned.add(args[0])
        code = errno.EIO if code == LOST_REPLY else code
        raise OSError(code, os.strerror(code))


def _counted(verb: str) -> Callable[..., object]:
    real = getattr(NoFlush, verb)

    def call(self: Failing, *args: object, **options: object) -> object:
        return self.failing(verb, real, args, options)

    return call


for _verb in VERBS:
    setattr(Failing, _verb, _counted(_verb))


def once(n: int, code: int) -> Callable[[int], int | None]:
    """Fail call n."""
    return lambda call: code if call == n else None


def from_then_on(n: int, code: int) -> Callable[[int], int | None]:
    """Fail call n and all after it."""
    return lambda call: code if call >= n else None


def survives_faults(world: World, top: Path, plan: Plan, code: int) -> int:
    """Let every call of an opening and a commit fail in turn; return how many there are.

    Raises LostError.
    """
    for n in count(1):
        root = top / f"{plan.__name__}-{code}-{n}"
        system = Failing(plan(n, code))
        faced = _one_run(world, root, system)
        if len(system.calls) < n and not faced:
            return n - 1
    raise AssertionError("unreachable")


def _one_run(world: World, root: Path, system: Failing) -> bool:
    """Run once; tell whether an error was raised. Raises LostError."""
    writer = world.writer()
    sound = Outside(system=NoFlush())
    writer.commit(LocalStore.create(root, sound, IDENTITY), "one", [SHARED, b"one"])
    acknowledged, error = ["one"], None

    def hook(point: str) -> None:
        if (
            point == "record.linked" and "meanwhile" not in acknowledged
        ):  # somebody builds on what this writer is not sure of yet
            writer.commit(LocalStore(root, sound), "meanwhile", [SHARED])
            acknowledged.append("meanwhile")

    try:
        writer.commit(
            world.store(root, world.outside(hook, system=system)), "two", [SHARED, b"two" * 2000]
        )
        acknowledged.append("two")
    except StoreError as caught:
        error = caught
    except ShareRegistryError as caught:
        raise LostError(f"not an error of the store: {caught!r}") from caught
    store = LocalStore(root, sound)
    keys = check(store, acknowledged=acknowledged, attempted=["one", "two", "meanwhile"])
    if error is not None and not isinstance(error, PublishStateUnknownError) and "two" in keys:
        raise LostError(f"published, and yet the error says that nothing was: {error}")
    writer.commit(store, "three", [SHARED, b"three"])
    if keys_of(store) != [*keys, "three"]:
        raise LostError("what was there changed")
    return error is not None


def survives_a_race(world: World, root: Path, point: str) -> None:
    """Let another writer commit while a commit passes a point: both must be there. Raises LostError."""
    sound = Outside(system=NoFlush())
    keys_of_others: list[str] = []

    def hook(passed: str) -> None:
        if passed == point and len(keys_of_others) < 2:
            keys_of_others.append(f"other {len(keys_of_others)}")
            Writer().commit(LocalStore(root, sound), keys_of_others[-1], [SHARED])

    LocalStore.create(root, sound, IDENTITY)
    store = world.store(root, world.outside(hook, system=NoFlush()))
    for key in ("one", "two"):
        world.writer().commit(store, key, [SHARED, key.encode()])
    check(
        store,
        acknowledged=["one", "two", *keys_of_others],
        attempted=["one", "two", *keys_of_others],
    )
    if len(keys_of_others) != 2:
        raise LostError(f"point {point} was not passed twice")
