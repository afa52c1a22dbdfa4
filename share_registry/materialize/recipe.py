"""What the factors of one adapter are made of, over rows that are resident.

X = sum_b K_b R_b + sum_d diag(s_d) R_d.

A chain of previous versions is expanded: every version adds its own rows and terms with its own
scales, and coefficients over one block are added up in float64. So decoding a late version costs
its rows, not a decoding of each version; left out are the roundings to float32 in between, 2**-24
of an element each.

Factors of one shape over the same blocks, at consecutive places, are one run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from share_registry.errors import IntegrityError
from share_registry.exchange.tensors import tensor_of
from share_registry.format.safetensors_file import Item
from share_registry.materialize.blocks import BlockPlace, Index, Member, RowsKey
from share_registry.materialize.decoder import Opened, Reader
from share_registry.materialize.device import DeviceTarget
from share_registry.materialize.factors import Slot, dtypes_of, slots_of
from share_registry.names import Digest, Side
from share_registry.stored import StoredSide

Indexes = Mapping[RowsKey, Index]
"""What rows each object has."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Coefficients over the rows of consecutive factors of one block.

    Attributes:
        weights: (G, r, k), scales and powers of two multiplied in.
    """

    rows: RowsKey
    place: BlockPlace
    weights: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """Rows of one object that a scale each is multiplied with, for `count` factors of a run from `at` on; scales (count, r, 1)."""

    rows: RowsKey
    place: BlockPlace
    at: int
    count: int
    scales: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Factors of one shape, r rows of width m, that are made together.

    Attributes:
        dtype: Element type of the tensors.
        scaled: In ascending order of `at` for each object.
    """

    members: tuple[Member, ...]
    rank: int
    width: int
    dtype: torch.dtype
    dense: tuple[Dense, ...]
    scaled: tuple[Scaled, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One adapter.

    Attributes:
        kept: Tensors kept bit for bit, by key, on the device.
        rows: The rows that runs are over, and whether they are kept as floats.
    """

    slots: Mapping[str, Slot]
    runs: tuple[Run, ...]
    kept: Mapping[str, Tensor]
    rows: Mapping[RowsKey, bool]

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers."""
        yield from self.kept.values()
        for run in self.runs:
            yield from (dense.weights for dense in run.dense)
            yield from (scaled.scales for scaled in run.scaled)


@dataclass(slots=True, kw_only=True)
class _Expanded:
    """One factor while its chain is followed, in float64."""

    dense: "dict[RowsKey, NDArray[np.float64]]" = field(default_factory=dict)
    scaled: "dict[RowsKey, NDArray[np.float64]]" = field(default_factory=dict)


def recipe_of(reader: Reader, digest: Digest, indexes: Indexes, target: DeviceTarget) -> Recipe:
    """Return how an adapter is made, its numbers on their way to the device.

    Args:
        indexes: Of the rows that `rows_needed` names.

    Raises:
        IntegrityError: an object is not what a version that refers to it needs.
    """
    opened = reader.open(digest)
    runs = tuple(_run(group, target) for group in _groups(reader, digest, opened, indexes))
    kept = {
        key: target.send(tensor) for key, tensor in kept_tensors(reader, digest, opened).items()
    }
    rows = {scaled.rows: False for run in runs for scaled in run.scaled}
    rows |= {dense.rows: target.keeps_floats for run in runs for dense in run.dense}
    return Recipe(slots=slots_of(opened.layout), runs=runs, kept=kept, rows=rows)


def kept_tensors(reader: Reader, digest: Digest, opened: Opened) -> dict[str, Tensor]:
    """Return the tensors of an adapter that are kept bit for bit, by key."""
    specs = opened.layout.tensors
    items = [
        Item(
            key=specs[at].key, dtype=specs[at].dtype, shape=tuple(specs[at].shape), content=content
        )
        for at, content in opened.stored.verbatim.items()
    ]
    kept = {item.key: tensor_of(item) for item in items}
    if opened.stored.external:  # objects of their own, which the reader knows how to read
        whole = reader.tensors(digest)
        kept |= {specs[at].key: whole[specs[at].key] for at in opened.stored.external}
    return kept


def consecutive(
    members: Sequence[_T], places: Sequence[Sequence[BlockPlace]]
) -> Iterator[tuple[int, int]]:
    """Split members into ranges in which every one of their places is the one after the place before."""
    begin = 0
    for end in range(1, len(members) + 1):
        if end == len(members) or any(
            b != BlockPlace(a.stack, a.at + 1)
            for a, b in zip(places[end - 1], places[end], strict=True)
        ):
            yield begin, end
            begin = end


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShapeGroup:
    members: list[Member]
    parts: list[_Expanded]
    rank: int
    width: int
    dtype: torch.dtype
    indexes: Indexes


def _groups(
    reader: Reader, digest: Digest, opened: Opened, indexes: Indexes
) -> Iterator[_ShapeGroup]:
    dtypes, alike = dtypes_of(opened.layout), dict[Any, list[tuple[Member, _Expanded]]]()
    for shape, stored in zip(opened.layout.modules(), opened.stored.modules, strict=True):
        for side, width in ((Side.A, shape.in_), (Side.B, shape.out)) if stored is not None else ():
            member = (shape.module, side)
            part = _expanded(reader, digest, member, (shape.rank, width), indexes)
            over = tuple(sorted(part.dense)) or tuple(part.scaled)
            alike.setdefault(
                (shape.rank, width, dtypes[member], bool(part.dense), over), []
            ).append((member, part))
    for (rank, width, dtype, _, over), found in alike.items():
        for begin, end in consecutive(
            found, [[indexes[key].places[member] for key in over] for member, _ in found]
        ):
            members, parts = (
                [member for member, _ in found[begin:end]],
                [part for _, part in found[begin:end]],
            )
            yield _ShapeGroup(
                members=members, parts=parts, rank=rank, width=width, dtype=dtype, indexes=indexes
            )


def _expanded(
    reader: Reader, digest: Digest, member: Member, shape: tuple[int, int], indexes: Indexes
) -> _Expanded:
    """Follow the chain of one factor. Zero rows are left out."""
    made, current = _Expanded(), digest
    while True:
        opened = reader.open(current)
        stored = opened.module(member[0])
        own = RowsKey(current, kept=stored is None)
        if placed(indexes[own], own, member, shape):
            made.scaled[own] = (
                np.ones(shape[0])
                if stored is None
                else stored.side(member[1]).scales.astype(np.float64)
            )
        if stored is None:
            return made
        side = stored.side(member[1])
        _add_terms(made, side, opened, member, indexes)
        if not side.previous:
            return made
        if opened.stored.previous is None:
            raise IntegrityError(
                f"module {member[0]!r} refers to a previous version that is not named."
            )
        current = opened.stored.previous


def _add_terms(
    made: _Expanded, side: StoredSide, opened: Opened, member: Member, indexes: Indexes
) -> None:
    for term in side.terms:
        source = RowsKey(opened.stored.sources[term.source])
        if placed(indexes[source], source, member, (term.coefficients.shape[1], side.own.shape[1])):
            weights = np.ldexp(
                side.scales.astype(np.float64)[:, None] * term.coefficients, term.exponent
            )
            made.dense[source] = made.dense[source] + weights if source in made.dense else weights


def placed(index: Index, key: RowsKey, member: Member, shape: tuple[int, ...]) -> bool:
    """Tell whether an object has rows of a factor other than zero.

    Raises IntegrityError where it has none of the shape at all.
    """
    if index.shapes.get(member) != shape:
        found = index.shapes.get(member, "none")
        raise IntegrityError(
            f"object {key.digest} has no rows of shape {shape} for module {member[0]!r} side {member[1]}, which a version needs; found {found}."
        )
    return member in index.places


def _run(group: _ShapeGroup, target: DeviceTarget) -> Run:
    dense = [_dense(group, key, target) for key in sorted(group.parts[0].dense)]
    objects = dict.fromkeys(key for part in group.parts for key in part.scaled)
    scaled = [piece for key in objects for piece in _scaled(group, key, target)]
    return Run(
        members=tuple(group.members),
        rank=group.rank,
        width=group.width,
        dtype=group.dtype,
        dense=tuple(dense),
        scaled=tuple(scaled),
    )


def _dense(group: _ShapeGroup, key: RowsKey, target: DeviceTarget) -> Dense:
    weights = np.stack([part.dense[key] for part in group.parts]).astype(np.float32)
    return Dense(
        rows=key,
        place=group.indexes[key].places[group.members[0]],
        weights=target.send(weights, target.compute),
    )


def _scaled(group: _ShapeGroup, key: RowsKey, target: DeviceTarget) -> Iterator[Scaled]:
    having = [at for at, part in enumerate(group.parts) if key in part.scaled]
    where = [[BlockPlace(0, at), group.indexes[key].places[group.members[at]]] for at in having]
    for begin, end in consecutive(having, where):
        scales = np.stack([group.parts[at].scaled[key] for at in having[begin:end]]).astype(
            np.float32
        )[:, :, None]
        yield Scaled(
            rows=key,
            place=where[begin][1],
            at=having[begin],
            count=end - begin,
            scales=target.send(scales, target.compute),
        )
