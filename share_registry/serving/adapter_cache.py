"""A directory of adapters that servers load from, of bounded size, shared by processes.

A server that has loaded a directory reads it again whenever it likes, and does not say when it is
done with it. So a directory that was handed out is held: its mark is refreshed for as long as the
process lives that got it, and none is removed whose mark is younger than the time of keeping. Where
everything is held there is no room for more, and none is made.
"""

from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Final

from share_registry.algebra.threads import one_thread
from share_registry.errors import StoreError, ensure
from share_registry.look.units import size
from share_registry.outside.files import Outside
from share_registry.registry.checkout.version_export import RebuiltFiles
from share_registry.registry.delivery.served_directory import (
    DIGITS,
    digest_on_disk,
    put,
    remove_litter,
)
from share_registry.registry.delivery.served_index import is_served_name

_MARKS: Final = ".used"
# How often marks are refreshed within the time of keeping
_BEATS: Final = 3


class AdapterCache:
    """Directories under names that have the digest of their files.

    Args:
        root: The directory; of this cache alone.
        limit_bytes: Bound on what is in it. Processes that write at once may each go beyond it by
            one adapter, which the next to write makes up for.
        keep_s: How long a directory stays that nobody holds any more.
        outside: Files and clock.
        hold: Whether what was handed out is held for as long as this process lives. Who opens files
            within the time of keeping, and reads each once, need not.
    """

    def __init__(
        self,
        root: Path,
        *,
        limit_bytes: int,
        keep_s: float,
        outside: Outside,
        hold: bool = True,
    ) -> None:
        self._root = outside.absolute(root)
        self._limit_bytes = limit_bytes
        self._keep_s = keep_s
        self._holds = hold and keep_s > 0
        self._outside = outside
        self._lock = Lock()
        # one directory at a time, so that each has the room that was made for it
        self._writing = Lock()
        self._refreshed: set[str] = set()
        self._heart: Thread | None = None
        outside.make_directory(self._root / _MARKS)
        remove_litter(self._root, outside)

    def find(self, name: str) -> Path | None:
        """Return the directory of a name and hold it; None where it is not there or damaged.

        Raises StoreError.
        """
        path = self.use(name)
        if path is None:
            return None
        digest = digest_on_disk(path, self._outside)
        if digest is None or digest[:DIGITS] != name[-DIGITS:]:
            return None
        self._hold(name)
        return path

    def use(self, name: str) -> Path | None:
        """Return the directory of a name, unread, and mark it as used; None where it is not there.

        Raises StoreError.
        """
        path = self._root / name
        if not is_served_name(name) or not self._outside.exists(path):
            return None
        # who removes looks at the mark once more when the name is gone
        self._mark(name)
        return path

    def put(self, name: str, rebuilt: RebuiltFiles) -> Path:
        """Make the directory of a name, or put it right, and hold it.

        Its tensors may be decoded for that: others are given theirs meanwhile.

        Raises StoreError, also where it does not fit beside what is held, and IntegrityError.
        """
        with self._writing:
            with self._lock:
                self._make_room(name, sum(map(len, rebuilt.files.values())))
                self._mark(name)
            try:
                with one_thread():
                    put(rebuilt, self._root, name, self._outside)
            except BaseException:
                if not self._outside.exists(self._root / name):
                    self._outside.remove(self._root / _MARKS / name)
                raise
        self._hold(name)
        return self._root / name

    def _make_room(self, name: str, needed: int) -> None:
        """Remove what was used longest ago, as far as it must and may be."""
        sizes = {each: self._size(each) for each in self._names() if each != name}
        excess = sum(sizes.values()) + needed - self._limit_bytes
        now_s = self._outside.now().timestamp()
        for used_s, each in sorted((self._used_s(each), each) for each in sizes):
            if excess <= 0:
                return
            if now_s - used_s >= self._keep_s and self._remove(each, used_s):
                excess -= sizes[each]
        ensure(
            excess <= 0,
            StoreError(
                f"{name} of {size(needed)} does not fit into {self._root} beside what servers "
                f"hold: at most {size(self._limit_bytes)}.",
                hint="Give the cache more room, or restart servers that hold many adapters.",
            ),
        )

    def _remove(self, name: str, used_s: float) -> bool:
        """Remove a directory unless another process has been given it; tell whether it is gone."""
        aside = self._root / f".{name}.{self._outside.token()[:16]}.old"
        # as old as it is, another replica would take it for what a killed one left
        self._outside.touch(self._root / name)
        try:
            self._outside.replace(self._root / name, aside)
        except StoreError:
            return not self._outside.exists(self._root / name)
        is_used = self._used_s(name) != used_s
        if is_used and self._outside.rename_directory(aside, self._root / name):
            return False
        self._outside.remove_tree(aside)
        if not is_used:
            self._outside.remove(self._root / _MARKS / name)
        self._refreshed.discard(name)
        return True

    def _names(self) -> list[str]:
        return [name for name in self._outside.names(self._root) if is_served_name(name)]

    def _size(self, name: str) -> int:
        path = self._root / name
        return sum(self._outside.size(path / file) or 0 for file in self._outside.names(path))

    def _used_s(self, name: str) -> float:
        return self._outside.modified_s(self._root / _MARKS / name) or 0.0

    def _mark(self, name: str) -> None:
        self._outside.make_file(self._root / _MARKS / name)
        self._outside.touch(self._root / _MARKS / name)

    def _hold(self, name: str) -> None:
        """Refresh a mark from now on, for as long as this process lives."""
        if not self._holds:
            return
        with self._lock:
            self._refreshed.add(name)
            if self._heart is None:
                self._heart = Thread(target=self._beat, name="share-registry-cache", daemon=True)
                self._heart.start()

    def _beat(self) -> None:
        while True:
            self._outside.wait(self._keep_s / _BEATS)
            with self._lock:
                names = sorted(self._refreshed)
            for name in names:
                # somebody may have cleaned up: a mark that is gone is made again
                with suppress(StoreError):
                    self._mark(name)
