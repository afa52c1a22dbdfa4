"""Keep recipes and rows resident on a device, and hold those that a pass needs.

A pass holds its recipes and rows by reference: they stay valid when the bank drops them. What a
pass needs is loaded before it, in one go where it fits into the limit, else in as many portions as
it takes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from threading import RLock
from typing import Generic

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
from share_registry.materialize.lru import ByteBoundedCache
from share_registry.materialize.recipe import P, Recipe
from share_registry.names import Digest

# Makes the recipe of an adapter.
Make = Callable[[Reader, Digest, Mapping[RowsKey, Index], DeviceTarget], Recipe[P]]


@dataclass(slots=True, kw_only=True)
class Holding(Generic[P]):
    """Recipes by adapter, and the rows they are over."""

    recipes: dict[Digest, Recipe[P]] = field(default_factory=dict)
    rows: dict[RowsKey, ResidentRows] = field(default_factory=dict)

    def tensors(self) -> Iterator[Tensor]:
        """Yield everything that a pass reads."""
        for rows in self.rows.values():
            yield from rows.stacks
        for recipe in self.recipes.values():
            yield from recipe.tensors()


class Bank(Generic[P]):
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
        make: Make[P],
        target: DeviceTarget,
        *,
        limit_bytes: int | None,
    ) -> None:
        self._open_reader, self._make, self._target = open_reader, make, target
        self._residents = ByteBoundedCache[Digest | RowsKey, Recipe[P] | ResidentRows](
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

    def hold(self, digests: Sequence[Digest]) -> tuple[Holding[P], Sequence[Digest]]:
        """Load as many adapters as fit together, from the first on.

        Return them and those that are left.

        Raises:
            RefusedError: the first does not fit into the limit by itself.
            IntegrityError: stored bytes are not what they should be.
        """
        holding: Holding[P] = Holding()
        with self._lock:
            count = 0
            while count < len(digests) and self._add(digests[count], holding):
                count += 1
            self._target.settle()
        if digests and not count:
            raise RefusedError(
                f"adapter object {digests[0]} does not fit into the memory_limit of"
                f" {self._residents.limit_bytes} bytes with the rows it is made of.",
                hint="Give a larger memory_limit, or None.",
            )
        return holding, digests[count:]

    def _add(self, digest: Digest, holding: Holding[P]) -> bool:
        """Load an adapter into a holding.

        Where it does not fit beside what is in it, change nothing and return False.
        """
        # one reader, opened on first use, and each object's rows read once
        reader = cache(self._open_reader)

        @cache
        def read_rows(key: RowsKey) -> HostRows:
            return host_rows(reader(), key)

        resident = self._recipe(digest)
        recipe = self._make_recipe(digest, reader, read_rows) if resident is None else resident
        missing = {
            key: (read_rows(key), as_floats)
            for key, as_floats in recipe.rows.items()
            if not self._has(key, as_floats=as_floats)
        }
        if (missing or resident is None) and not self._load(digest, recipe, missing, holding):
            return False
        holding.recipes[digest] = recipe
        holding.rows |= {key: rows for key in recipe.rows if (rows := self._rows(key)) is not None}
        return True

    def _make_recipe(
        self,
        digest: Digest,
        reader: Callable[[], Reader],
        read_rows: Callable[[RowsKey], HostRows],
    ) -> Recipe[P]:
        indexes: dict[RowsKey, Index] = {}
        for key in rows_needed(reader(), digest):
            resident = self._rows(key)
            indexes[key] = read_rows(key).index if resident is None else resident.index
        recipe = self._make(reader(), digest, indexes, self._target)
        layout = reader().open(digest).stored.layout
        return replace(recipe, slots=self._slots.setdefault(layout, recipe.slots))

    def _load(
        self,
        digest: Digest,
        recipe: Recipe[P],
        hosts: Mapping[RowsKey, tuple[HostRows, bool]],
        holding: Holding[P],
    ) -> bool:
        """Make room for a recipe and rows and bring them to the device.

        Return False where there is none.
        """
        sizes = {
            key: host.size_bytes(self._target, as_floats=as_floats)
            for key, (host, as_floats) in hosts.items()
        }
        replaced = sum(rows.size_bytes for rows in map(self._rows, hosts) if rows is not None)
        own_bytes = recipe.size_bytes if self._recipe(digest) is None else 0
        keep: set[Digest | RowsKey] = {digest, *recipe.rows, *holding.recipes, *holding.rows}
        if not self._residents.make_room(sum(sizes.values()) - replaced + own_bytes, keep=keep):
            return False
        self._residents.put(digest, recipe, recipe.size_bytes)
        for key, (host, as_floats) in hosts.items():
            self._residents.put(key, send_rows(host, self._target, as_floats=as_floats), sizes[key])
        return True

    def _recipe(self, digest: Digest) -> Recipe[P] | None:
        # a digest is the key of a recipe
        return self._residents.get(digest)  # type: ignore[return-value]

    def _rows(self, key: RowsKey) -> ResidentRows | None:
        # a key of rows is the key of rows
        return self._residents.get(key)  # type: ignore[return-value]

    def _has(self, key: RowsKey, *, as_floats: bool) -> bool:
        rows = self._rows(key)
        return rows is not None and (rows.as_floats or not as_floats)
