"""The integer rows of an object on a device, stacked so that one operation serves all of a shape.

They stay in the narrowest integers that hold them: a block is converted piece by piece, in cache,
which takes no longer than reading it as floats. On a GPU, where that would be a pass of its own,
rows that enter a product are kept in the element type computed in. A symbol is less than 2**23
(spec SYM-08), so that float32 holds it exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from share_registry.materialize.decoder import Reader
from share_registry.materialize.device import DeviceTarget
from share_registry.names import Digest, Side

# One factor of one module.
Member = tuple[str, Side]
_INTEGERS: Final = (np.int8, np.int16, np.int32)


class RowsKey(NamedTuple):
    """Names the rows of an object.

    Attributes:
        kept: Of its modules that are kept bit for bit: the factors themselves, which later versions
            build upon.
    """

    digest: Digest
    kept: bool = False


class BlockPlace(NamedTuple):
    """Where a factor's rows are: which stack, and which position in it."""

    stack: int
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """The factors that an object has rows for.

    Attributes:
        shapes: (k, m) of every factor.
        places: Where the rows are; factors whose rows are all zero have no place.
        largest: Largest absolute value of the rows of a factor that has a place; 1 for kept
            factors.
    """

    shapes: dict[Member, tuple[int, ...]]
    places: dict[Member, BlockPlace]
    largest: dict[Member, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRows:
    """Rows as they come out of an object.

    Stacks (G, k, m) of int8, int16 or int32, or of float32 where they are kept factors.
    """

    stacks: tuple[NDArray[Any], ...]
    index: Index

    def size_bytes(self, target: DeviceTarget, *, as_floats: bool) -> int:
        """Return the bytes of them on a device."""
        return sum(
            stack.size
            * (
                target.compute.itemsize
                if as_floats and stack.dtype != np.float32
                else stack.itemsize
            )
            for stack in self.stacks
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidentRows:
    """Rows on a device; those `as_floats` in the element type computed in."""

    stacks: tuple[Tensor, ...]
    index: Index
    as_floats: bool
    size_bytes: int

    def slice(self, place: BlockPlace, begin: int, end: int) -> Tensor:
        """Return the rows (end - begin, k, m) of consecutive factors, counted from a place."""
        return self.stacks[place.stack][place.at + begin : place.at + end]


def rows_needed(reader: Reader, digest: Digest) -> set[RowsKey]:
    """Return the rows that an adapter may be made of. Raises IntegrityError."""
    keys: set[RowsKey] = set()
    for current in reader.chain(digest):
        opened = reader.open(current)
        keys |= {RowsKey(current), *map(RowsKey, opened.stored.sources)}
        if current != digest and None in opened.stored.modules:
            keys.add(RowsKey(current, kept=True))
    return keys


def host_rows(reader: Reader, key: RowsKey) -> HostRows:
    """Return the rows of an object, stacked by shape. Raises IntegrityError."""
    by_shape: dict[tuple[int, ...], tuple[int, list[NDArray[Any]], list[int]]] = {}
    index = Index(shapes={}, places={}, largest={})
    for member, block in _blocks(reader, key):
        index.shapes[member] = block.shape
        largest = _largest(block)
        if largest:
            number, stack, bounds = by_shape.setdefault(block.shape, (len(by_shape), [], []))
            index.places[member] = BlockPlace(number, len(stack))
            index.largest[member] = largest
            stack.append(block)
            bounds.append(largest)
    return HostRows(
        stacks=tuple(_narrow(stack, max(bounds)) for _, stack, bounds in by_shape.values()),
        index=index,
    )


def send_rows(host: HostRows, target: DeviceTarget, *, as_floats: bool) -> ResidentRows:
    """Return rows on their way to a device."""
    return ResidentRows(
        stacks=tuple(
            target.send(stack, target.compute if as_floats and stack.dtype != np.float32 else None)
            for stack in host.stacks
        ),
        index=host.index,
        as_floats=as_floats,
        size_bytes=host.size_bytes(target, as_floats=as_floats),
    )


def _blocks(reader: Reader, key: RowsKey) -> "Iterator[tuple[Member, NDArray[Any]]]":
    if not key.kept and reader.is_basis(key.digest):
        for module, (a, b) in reader.basis(key.digest).modules.items():
            yield (module, Side.A), a
            yield (module, Side.B), b
        return
    opened = reader.open(key.digest)
    decoded = reader.rows(key.digest) if key.kept else ()
    for module, position in opened.modules.items():
        stored = opened.stored.modules[position]
        if stored is not None and not key.kept:
            yield (module, Side.A), stored.a.own
            yield (module, Side.B), stored.b.own
        if stored is None and key.kept:
            yield (module, Side.A), decoded[position][0].numpy()
            yield (module, Side.B), decoded[position][1].numpy()


def _largest(block: "NDArray[Any]") -> int:
    """Return the largest absolute value; 1 for a kept factor, whose zeros may have a sign."""
    if block.dtype.kind == "f":
        return 1
    return max(int(block.max(initial=0)), -int(block.min(initial=0)))


def _narrow(blocks: "list[NDArray[Any]]", largest: int) -> "NDArray[Any]":
    kinds: list[type[np.generic]] = [np.float32]
    if blocks[0].dtype.kind == "i":
        kinds = [kind for kind in _INTEGERS if largest <= np.iinfo(kind).max]
    stack = np.empty((len(blocks), *blocks[0].shape), kinds[0])
    for at, block in enumerate(blocks):
        stack[at] = block
    return stack
