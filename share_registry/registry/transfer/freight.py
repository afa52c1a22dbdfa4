"""Copy the objects that new records need, before any of these records.

They are found level by level: what records name, what notes and adapter objects of it name, and so
on. The target is asked which of a level it lacks; what its own records need is not looked into, as
they need the rest of it too. Every object is hashed where it is read and where it is put.

What the target has and no record of it needs may be garbage there. So it is put again where it was
put more than a day ago: a collector spares what was put within its days of grace (spec MNT-06).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from share_registry.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
)
from share_registry.names import Digest, SpaceName
from share_registry.parallel import side_by_side
from share_registry.registry.arguments import Progress
from share_registry.registry.maintenance.reach import files_of, references
from share_registry.registry.object_uses import uses_of
from share_registry.registry.transfer.new_records import Item, NewRecords
from share_registry.store.protocol import Store

# Objects that are asked for together: a bucket looks for each then and lists nothing
_AT_ONCE: Final = 64
# Objects in memory at a time are at most so many
_MOST_THREADS: Final = 8
_DAY_S: Final = 86_400.0
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What became of one object.

    Attributes:
        size: Its bytes where it travelled, else 0.
        needs: What it refers to, with roles.
        error: Why the source could not give it.
    """

    size: int = 0
    needs: tuple[Item, ...] = ()
    error: ShareRegistryError | None = None


@dataclass(slots=True, kw_only=True)
class Freight:
    """The objects that new records of a space need, on their way.

    Attributes:
        spares: Objects that the source keeps twice.
        moved: What became of each.
        present: Those that the target had.
    """

    space: SpaceName
    source: Store
    target: Store
    records: NewRecords
    dry_run: bool
    spares: frozenset[Digest]
    progress: Progress
    moved: dict[Digest, Moved] = field(default_factory=dict)
    present: set[Digest] = field(default_factory=set)
    _seen: set[Item] = field(default_factory=set)

    @property
    def objects(self) -> int:
        """How many objects travelled."""
        return len(self.moved) - len(self.present) - len(self.lost)

    @property
    def size_bytes(self) -> int:
        """What they have."""
        return sum(moved.size for moved in self.moved.values())

    @property
    def lost(self) -> dict[Digest, ShareRegistryError]:
        """Objects that are needed and the source does not have in a sound state."""
        return {digest: moved.error for digest, moved in self.moved.items() if moved.error}

    def carry(self) -> None:
        """Bring every object to the target; what the source cannot give is noted."""
        level = self._unseen(item for items in self.records.items.values() for item in items)
        while level:
            lacking = {*self.target.missing(level.keys() - self.moved.keys())}
            self.present |= level.keys() - self.moved.keys() - lacking
            travelling = lacking | self._aged(level.keys() - self.moved.keys() - lacking)
            bring = partial(self._bring, lacking=lacking, travelling=travelling)
            needs: list[Item] = []
            for some in _pieces([*level.items()], _AT_ONCE):
                for (digest, _), moved in zip(
                    some, side_by_side(bring, some, threads=self._threads()), strict=True
                ):
                    needs += moved.needs
                    self._note(digest, moved)
                self.progress(f"objects of {self.space}", len(self.moved), len(self.moved))
            level = self._unseen(needs)

    def first_lacking(self) -> tuple[int, Digest] | None:
        """Return the first record that needs what is lost, and the object; None for none."""
        lost = self.lost
        seen: set[Digest] = set()
        for number, items in self.records.items.items():
            pending = [digest for digest, _ in items]
            for digest in pending:
                if digest in lost:
                    return number, digest
                if digest not in seen:
                    seen.add(digest)
                    pending += [need for need, _ in self.moved[digest].needs]
        return None

    def _bring(
        self, entry: tuple[Digest, set[str]], *, lacking: set[Digest], travelling: set[Digest]
    ) -> Moved:
        """Bring one object, and say what it refers to."""
        digest, roles = entry
        followed = {role for role in roles if self._is_followed(digest, role)}
        travels = digest in travelling
        try:
            if not followed and (self.dry_run or not travels):
                return Moved(size=self._size(digest) if digest in lacking else 0)
            content = self._read(digest)
            needs = tuple(dict.fromkeys(self._needs(digest, followed, content)))
        except (NotFoundError, IntegrityError) as error:
            return Moved(error=error)
        if travels and not self.dry_run:
            self.target.put(content, digest)
            if digest in self.spares:
                self.target.keep_spare(content, digest)
        return Moved(size=len(content) if digest in lacking else 0, needs=needs)

    def _read(self, digest: Digest) -> bytes:
        """Return an object from where it is quicker. Raises NotFoundError, IntegrityError."""
        places: list[Store] = [self.source, *([self.target] if digest in self.present else ())]
        nearest, *further = sorted(places, key=lambda store: store.at_once)
        try:
            return nearest.get_or_spare(digest)
        except (NotFoundError, IntegrityError):
            if not further:
                raise
            return further[0].get_or_spare(digest)

    def _is_followed(self, digest: Digest, role: str) -> bool:
        """Tell whether what an object refers to has to be looked at."""
        if role == "note":
            return digest in self.records.described
        is_known = digest in self.records.covered and digest in self.present
        return role in ("adapter", "rows") and not is_known

    def _needs(self, digest: Digest, roles: set[str], content: bytes) -> Iterator[Item]:
        if "note" in roles:
            files = files_of(content)
            for name in sorted(self.records.described[digest]):
                yield from files.get(name, ())
        for role in sorted(roles - {"note"}):
            yield from references(uses_of(content), role)

    def _size(self, digest: Digest) -> int:
        """Return the size of an object of the source. Raises NotFoundError."""
        size = self.source.size(digest)
        if size is None:
            raise NotFoundError(f"object {digest} is not in the store.", hint="Run verify.")
        return size

    def _aged(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return what the target has, no record of it needs, and nobody put for a day."""
        uncovered = [digest for digest in digests if digest not in self.records.covered]
        if self.dry_run or not uncovered:
            return set()
        try:
            now_s = self.target.now_s()
            used_s = side_by_side(self.target.used_s, uncovered, threads=self._threads())
        except RefusedError:
            # it removes nothing
            return set()
        return {
            digest
            for digest, at_s in zip(uncovered, used_s, strict=True)
            if at_s is not None and now_s - at_s > _DAY_S
        }

    def _unseen(self, items: Iterable[Item]) -> dict[Digest, set[str]]:
        """Return by object the roles in which it was not looked at yet."""
        roles: dict[Digest, set[str]] = {}
        for item in dict.fromkeys(items):
            if item not in self._seen:
                self._seen.add(item)
                roles.setdefault(item[0], set()).add(item[1])
        return roles

    def _note(self, digest: Digest, moved: Moved) -> None:
        """Keep what became of an object, in all its roles."""
        earlier = self.moved.get(digest)
        if earlier is not None:
            moved = Moved(
                size=earlier.size,
                needs=(*earlier.needs, *moved.needs),
                error=earlier.error or moved.error,
            )
        self.moved[digest] = moved
        if moved.error is not None:
            self.present.discard(digest)

    def _threads(self) -> int:
        return min(_MOST_THREADS, max(self.source.at_once, self.target.at_once))


def _pieces(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    pending = iter(items)
    while some := [*islice(pending, size)]:
        yield some
