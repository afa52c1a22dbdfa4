"""The bank of what is resident on a device, and what a pass holds of it.

A pass holds its recipes and rows by reference: they stay valid when the bank drops them. What a
pass needs is loaded before it, in one go where it fits into the limit, else in as many portions as
it takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from share_registry.errors import RefusedError
from share_registry.materialize.blocks import (
    HostRows,
    Index,
    ResidentRows,
    RowsKey,
    host_rows,
    rows_needed,
    send_rows,
)
from share_registry.materialize.decoder import Reader
from share_registry.materialize.device import DeviceTarget
from share_registry.materialize.factors import Slot
from share_registry.materialize.lru import Residents
from share_registry.names import Digest


class Sized(Protocol):
    """What a recipe, a frozen dataclass, must say of itself."""

    @property
    def slots(self) -> Mapping[str, Slot]:
        """Where its tensors come from: the same value for every adapter of a layout."""
        ...

    @property
    def rows(self) -> Mapping[RowsKey, bool]:
        """The rows it is over, and whether they are kept as floats."""
        ...

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        ...

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers."""
        ...


R = TypeVar("R", bound=Sized)
Make = Callable[[Reader, Digest, Mapping[RowsKey, Index], DeviceTarget], R]
"""Makes the recipe of an adapter."""


@dataclass(slots=True, kw_only=True)
class Holding(Generic[R]):
    """Recipes by adapter, and the rows they are over."""

    recipes: dict[Digest, R] = field(default_factory=dict)
    rows: dict[RowsKey, ResidentRows] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        """Yield everything that a pass reads."""
        for rows in self.rows.values():
            yield from rows.stacks
        for recipe in self.recipes.values():
            yield from recipe.tensors()


class Bank(Generic[R]):
    """Recipes and rows on one device, within a number of bytes; safe for threads.

    Args:
        open_reader: Returns a reader of the objects; one is used for each adapter loaded, so that
            nothing parsed stays behind.
        make: Makes the recipe of an adapter.
        limit_bytes: Bound on what is resident. While an adapter is loaded its numbers, and what a
            pass still holds, come on top.
    """

    def __init__(
        self,
        open_reader: Callable[[], Reader],
        make: Make[R],
        target: DeviceTarget,
        *,
        limit_bytes: int | None,
    ) -> None:
        self._open_reader, self._make, self._target = open_reader, make, target
        self._residents: Residents[Digest | RowsKey, R | ResidentRows] = Residents(
            limit_bytes, target.idle
        )
        self._slots: dict[Digest, Mapping[str, Slot]] = {}
        self._lock = RLock()

    @property
    def used_bytes(self) -> int:
        """Bytes that are resident."""
        return self._residents.used_bytes

    @property
    def evictions(self) -> int:
        """How many recipes and rows were dropped to make room."""
        return self._residents.evictions

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._residents.clear()

    def hold(self, digests: Sequence[Digest]) -> tuple[Holding[R], Sequence[Digest]]:
        """Load as many adapters as fit together, from the first on.

        Return them and those that are left.

        Raises:
            RefusedError: the first does not fit into the limit by itself.
            IntegrityError: stored bytes are not what they should be.
        """
        holding: Holding[R] = Holding()
        with self._lock:
            taken = 0
            while taken < len(digests) and self._add(digests[taken], holding):
                taken += 1
            self._target.settle()
        if digests and not taken:
            raise RefusedError(
                f"adapter object {digests[0]} does not fit into the memory_limit of {self._residents.limit_bytes} bytes with the rows it is made of.",
                hint="Give a larger memory_limit, or None.",
            )
        return holding, digests[taken:]

    def _add(self, digest: Digest, holding: Holding[R]) -> bool:
        """Load an adapter into a holding.

        Where it does not fit beside what is held, change nothing and return False.
        """
        loading = _Loading(self._open_reader)
        known = self._recipe(digest)
        recipe = self._made(digest, loading) if known is None else known
        missing = {
            key: as_floats
            for key, as_floats in recipe.rows.items()
            if not self._has(key, as_floats=as_floats)
        }
        if (missing or known is None) and not self._loaded(
            digest, recipe, {key: (loading.rows(key), missing[key]) for key in missing}, holding
        ):
            return False
        holding.recipes[digest] = recipe
        holding.rows |= {key: rows for key in recipe.rows if (rows := self._rows(key)) is not None}
        return True

    def _loaded(
        self,
        digest: Digest,
        recipe: R,
        hosts: Mapping[RowsKey, tuple[HostRows, bool]],
        holding: Holding[R],
    ) -> bool:
        """Make room for a recipe and rows and bring them to the device.

        Return False where there is none.
        """
        sizes = {
            key: host.size_bytes(self._target, as_floats=as_floats)
            for key, (host, as_floats) in hosts.items()
        }
        replaced = sum(rows.size_bytes for rows in map(self._rows, hosts) if rows is not None)
        extra = (
            sum(sizes.values())
            - replaced
            + (recipe.size_bytes if self._recipe(digest) is None else 0)
        )
        if not self._residents.make_room(
            extra, keep={digest, *recipe.rows, *holding.recipes, *holding.rows}
        ):
            return False
        self._residents.put(digest, recipe, recipe.size_bytes)
        for key, (host, as_floats) in hosts.items():
            self._residents.put(key, send_rows(host, self._target, as_floats=as_floats), sizes[key])
        return True

    def _made(self, digest: Digest, loading: "_Loading") -> R:
        indexes: dict[RowsKey, Index] = {}
        for key in rows_needed(loading.reader(), digest):
            resident = self._rows(key)
            indexes[key] = loading.rows(key).index if resident is None else resident.index
        recipe: Any = self._make(loading.reader(), digest, indexes, self._target)
        layout = loading.reader().open(digest).stored.layout
        slots = self._slots.setdefault(layout, recipe.slots)
        return replace(recipe, slots=slots)  # type: ignore[no-any-return]

    def _recipe(self, digest: Digest) -> R | None:
        return self._residents.get(digest)  # type: ignore[return-value]  # a digest is the key of a recipe

    def _rows(self, key: RowsKey) -> ResidentRows | None:
        return self._residents.get(key)  # type: ignore[return-value]  # a key of rows is the key of rows

    def _has(self, key: RowsKey, *, as_floats: bool) -> bool:
        found = self._rows(key)
        return found is not None and (found.as_floats or not as_floats)


class _Loading:
    """What is read while one adapter is loaded."""

    def __init__(self, open_reader: Callable[[], Reader]) -> None:
        self._open_reader = open_reader
        self._reader: Reader | None = None
        self._hosts: dict[RowsKey, HostRows] = {}

    def reader(self) -> Reader:
        """Return the reader, opened on first use."""
        if self._reader is None:
            self._reader = self._open_reader()
        return self._reader

    def rows(self, key: RowsKey) -> HostRows:
        """Return the rows of an object, read once."""
        if key not in self._hosts:
            self._hosts[key] = host_rows(self.reader(), key)
        return self._hosts[key]
