"""The integer rows of one object on a device.

Stacked by shape, so that one operation serves every module of that shape.

They stay in the narrowest integers that hold them: a block is converted piece by piece, in cache,
which takes no longer than reading it as floats. On a GPU, where that would be a pass of its own,
rows that enter a product are kept in the element type computed in. A symbol is less than 2**23
(spec SYM-08), so that float32 holds it exactly.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from share_registry.materialize.decoder import Reader
from share_registry.materialize.device import DeviceTarget
from share_registry.names import Digest, Side

Member = tuple[str, Side]
"""One factor of one module."""
_NARROW: Final = (np.int8, np.int16)


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

    shapes: Mapping[Member, tuple[int, ...]]
    places: Mapping[Member, BlockPlace]
    largest: Mapping[Member, int]


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
    reader.chain(digest)
    found: set[RowsKey] = set()
    current: Digest | None = digest
    while current is not None:
        opened = reader.open(current)
        found |= {RowsKey(current), *map(RowsKey, opened.stored.sources)}
        if current != digest and None in opened.stored.modules:
            found.add(RowsKey(current, kept=True))
        current = opened.stored.previous
    return found


def host_rows(reader: Reader, key: RowsKey) -> HostRows:
    """Return the rows of an object. Raises IntegrityError."""
    if key.kept:
        return _stacked(_kept(reader, key.digest))
    return _stacked(
        _of_basis(reader, key.digest)
        if reader.is_basis(key.digest)
        else _of_adapter(reader, key.digest)
    )


def send_rows(host: HostRows, target: DeviceTarget, *, as_floats: bool) -> ResidentRows:
    """Return rows on their way to a device."""
    stacks = tuple(
        target.send(stack, target.compute if as_floats and stack.dtype != np.float32 else None)
        for stack in host.stacks
    )
    return ResidentRows(
        stacks=stacks,
        index=host.index,
        as_floats=as_floats,
        size_bytes=host.size_bytes(target, as_floats=as_floats),
    )


def _of_basis(reader: Reader, digest: Digest) -> "Iterator[tuple[Member, NDArray[Any]]]":
    for module, (a, b) in reader.basis(digest).modules.items():
        yield (module, Side.A), a
        yield (module, Side.B), b


def _of_adapter(reader: Reader, digest: Digest) -> "Iterator[tuple[Member, NDArray[Any]]]":
    opened = reader.open(digest)
    for module, position in opened.modules.items():
        stored = opened.stored.modules[position]
        if stored is not None:
            yield (module, Side.A), stored.a.own
            yield (module, Side.B), stored.b.own


def _kept(reader: Reader, digest: Digest) -> "Iterator[tuple[Member, NDArray[Any]]]":
    opened, rows = reader.open(digest), reader.rows(digest)
    for module, position in opened.modules.items():
        if opened.stored.modules[position] is None:
            for side, factor in zip((Side.A, Side.B), rows[position], strict=True):
                yield (module, side), factor.numpy()


def _stacked(blocks: "Iterable[tuple[Member, NDArray[Any]]]") -> HostRows:
    by_shape: dict[tuple[int, ...], tuple[int, list[NDArray[Any]], list[int]]] = {}
    shapes, places, largest = (
        dict[Member, tuple[int, ...]](),
        dict[Member, BlockPlace](),
        dict[Member, int](),
    )
    for member, block in blocks:
        shapes[member] = block.shape
        bound = _largest(block)
        if bound:
            number, stack, bounds = by_shape.setdefault(block.shape, (len(by_shape), [], []))
            places[member], largest[member] = BlockPlace(number, len(stack)), bound
            stack.append(block)
            bounds.append(bound)
    stacks = tuple(_narrow(stack, max(bounds)) for _, stack, bounds in by_shape.values())
    return HostRows(stacks=stacks, index=Index(shapes=shapes, places=places, largest=largest))


def _largest(block: "NDArray[Any]") -> int:
    """Return the largest absolute value of integers.

    1 for a kept factor, whose zeros may have a sign.
    """
    if block.dtype.kind == "f":
        return 1
    return max(int(block.max(initial=0)), -int(block.min(initial=0)))


def _narrow(blocks: "list[NDArray[Any]]", largest: int) -> "NDArray[Any]":
    kind = (
        next((narrow for narrow in _NARROW if largest <= np.iinfo(narrow).max), np.int32)
        if blocks[0].dtype.kind == "i"
        else np.float32
    )
    made = np.empty((len(blocks), *blocks[0].shape), kind)
    for at, block in enumerate(blocks):
        made[at] = block
    return made


def floats(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return rows in a floating element type, themselves where they are in it."""
    return rows if rows.dtype == dtype else rows.to(dtype)
