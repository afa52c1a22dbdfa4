"""How an adapter is computed from resident rows: X = sum_b K_b R_b + sum_d diag(s_d) R_d.

A chain of previous versions is expanded: every version adds its own rows and terms with its own
scales, and coefficients over one block are added up in float64. So decoding a late version costs
its rows, not a decoding of each version; left out are the roundings to float32 in between, 2**-24
of an element each.

Factors of one shape over the same blocks, at consecutive places, are one run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from share_registry.errors import IntegrityError
from share_registry.materialize.blocks import BlockPlace, Index, Member, RowsKey
from share_registry.materialize.decoder import Opened, Reader
from share_registry.materialize.device import DeviceTarget
from share_registry.materialize.factors import Slot, dtypes_of, slots_of
from share_registry.names import Digest, Side
from share_registry.stored import StoredSide

# What rows each object has.
Indexes = Mapping[RowsKey, Index]
_K = TypeVar("_K")
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
    """Rows of one object with a scale each, for `count` factors of a run from `at` on.

    Attributes:
        scales: (count, r, 1).
    """

    rows: RowsKey
    place: BlockPlace
    at: int
    count: int
    scales: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Factors of one shape, r rows of width m, that are computed together.

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

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers."""
        yield from (dense.weights for dense in self.dense)
        yield from (scaled.scales for scaled in self.scaled)


class Part(Protocol):
    """What a recipe consists of: a run, or for the exact path a version with its runs."""

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers."""


P = TypeVar("P", bound=Part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Generic[P]):
    """One adapter.

    Attributes:
        slots: Where its tensors come from: the same value for every adapter of a layout.
        parts: What is computed, in this order.
        kept: Tensors kept bit for bit, by key, on the device.
        rows: The rows that it is over, and whether they are kept as floats.
    """

    slots: Mapping[str, Slot]
    parts: tuple[P, ...]
    kept: Mapping[str, Tensor]
    rows: Mapping[RowsKey, bool]

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers."""
        yield from self.kept.values()
        for part in self.parts:
            yield from part.tensors()


@dataclass(slots=True, kw_only=True)
class _Expanded:
    """One factor while its chain is followed, in float64."""

    dense: "dict[RowsKey, NDArray[np.float64]]" = field(default_factory=dict)
    scaled: "dict[RowsKey, NDArray[np.float64]]" = field(default_factory=dict)


def recipe_of(
    reader: Reader, digest: Digest, indexes: Indexes, target: DeviceTarget
) -> Recipe[Run]:
    """Return how an adapter is computed, its numbers on their way to the device.

    Args:
        reader: Reads the objects.
        digest: The adapter object.
        indexes: Of the rows that `rows_needed` names.
        target: The device.

    Raises:
        IntegrityError: an object is not what a version that refers to it needs.
    """
    opened = reader.open(digest)
    runs = tuple(_runs(reader, digest, opened, indexes, target))
    rows = {scaled.rows: False for run in runs for scaled in run.scaled}
    rows |= {dense.rows: target.keeps_floats for run in runs for dense in run.dense}
    return Recipe(
        slots=slots_of(opened.layout),
        parts=runs,
        kept=kept_tensors(reader, opened, target),
        rows=rows,
    )


def kept_tensors(reader: Reader, opened: Opened, target: DeviceTarget) -> dict[str, Tensor]:
    """Return the tensors of an adapter that are kept bit for bit, by key, on their way."""
    return {
        opened.layout.tensors[at].key: target.send(reader.verbatim(opened, at))
        for at in (*opened.stored.verbatim, *opened.stored.external)
    }


def coded_factors(opened: Opened) -> Iterator[tuple[Member, tuple[int, int], StoredSide]]:
    """Yield every coded factor with its shape (r, m)."""
    for shape, stored in zip(opened.layout.modules(), opened.stored.modules, strict=True):
        if stored is not None:
            yield (shape.module, Side.A), (shape.rank, shape.in_), stored.a
            yield (shape.module, Side.B), (shape.rank, shape.out), stored.b


def split_runs(
    alike: Mapping[tuple[tuple[RowsKey, ...], _K], list[tuple[Member, _T]]], indexes: Indexes
) -> Iterator[tuple[tuple[RowsKey, ...], _K, list[Member], list[_T]]]:
    """Split factors of one kind, over the same rows, where their rows are not consecutive.

    Yields the rows' keys, the kind, and the members of a run with what each of them carries.
    """
    for (over, kind), factors in alike.items():
        places = [[indexes[key].places[member] for key in over] for member, _ in factors]
        for begin, end in _consecutive(places):
            run = factors[begin:end]
            yield over, kind, [member for member, _ in run], [part for _, part in run]


def has_rows(index: Index, key: RowsKey, member: Member, shape: tuple[int, ...]) -> bool:
    """Tell whether an object has rows of a factor other than zero.

    Raises IntegrityError where it has none of the shape at all.
    """
    if index.shapes.get(member) != shape:
        raise IntegrityError(
            f"object {key.digest} has no rows of shape {shape} for module {member[0]!r} side"
            f" {member[1]}, which a version needs; found {index.shapes.get(member, 'none')}."
        )
    return member in index.places


def _runs(
    reader: Reader, digest: Digest, opened: Opened, indexes: Indexes, target: DeviceTarget
) -> Iterator[Run]:
    dtypes, alike = dtypes_of(opened.layout), dict[Any, list[tuple[Member, _Expanded]]]()
    for member, shape, _ in coded_factors(opened):
        part = _expand(reader, digest, member, shape, indexes)
        over = tuple(sorted(part.dense)) or tuple(part.scaled)
        kind = (*shape, dtypes[member], bool(part.dense))
        alike.setdefault((over, kind), []).append((member, part))
    for _, (rank, width, dtype, _), members, parts in split_runs(alike, indexes):
        objects = dict.fromkeys(key for part in parts for key in part.scaled)
        yield Run(
            members=tuple(members),
            rank=rank,
            width=width,
            dtype=dtype,
            dense=tuple(
                Dense(
                    rows=key,
                    place=indexes[key].places[members[0]],
                    weights=_send_stack([part.dense[key] for part in parts], target),
                )
                for key in sorted(parts[0].dense)
            ),
            scaled=tuple(
                piece for key in objects for piece in _scaled(key, members, parts, indexes, target)
            ),
        )


def _expand(
    reader: Reader, digest: Digest, member: Member, shape: tuple[int, int], indexes: Indexes
) -> _Expanded:
    """Follow the chain of one factor. Zero rows are left out."""
    module, side = member
    expanded, current = _Expanded(), digest
    while True:
        opened = reader.open(current)
        stored = opened.module(module)
        own = RowsKey(current, kept=stored is None)
        has_own = has_rows(indexes[own], own, member, shape)
        if stored is None:
            if has_own:
                expanded.scaled[own] = np.ones(shape[0])
            return expanded
        factor = stored.side(side)
        scales = factor.scales.astype(np.float64)
        if has_own:
            expanded.scaled[own] = scales
        for term in factor.terms:
            source = RowsKey(opened.stored.sources[term.source])
            needed = (term.coefficients.shape[1], factor.own.shape[1])
            if has_rows(indexes[source], source, member, needed):
                weights = np.ldexp(scales[:, None] * term.coefficients, term.exponent)
                earlier = expanded.dense.get(source)
                expanded.dense[source] = weights if earlier is None else earlier + weights
        if not factor.previous:
            return expanded
        if opened.stored.previous is None:
            raise IntegrityError(
                f"module {module!r} refers to a previous version that is not named."
            )
        current = opened.stored.previous


def _scaled(
    key: RowsKey,
    members: Sequence[Member],
    parts: Sequence[_Expanded],
    indexes: Indexes,
    target: DeviceTarget,
) -> Iterator[Scaled]:
    having = [at for at, part in enumerate(parts) if key in part.scaled]
    places = [[BlockPlace(0, at), indexes[key].places[members[at]]] for at in having]
    for begin, end in _consecutive(places):
        yield Scaled(
            rows=key,
            place=places[begin][1],
            at=having[begin],
            count=end - begin,
            scales=_send_stack(
                [parts[at].scaled[key][:, None] for at in having[begin:end]], target
            ),
        )


def _consecutive(places: Sequence[Sequence[BlockPlace]]) -> Iterator[tuple[int, int]]:
    """Yield ranges in which each of several places is the one after the place before."""
    begin = 0
    for end in range(1, len(places) + 1):
        if end == len(places) or any(
            after != BlockPlace(before.stack, before.at + 1)
            for before, after in zip(places[end - 1], places[end], strict=True)
        ):
            yield begin, end
            begin = end


def _send_stack(values: "list[NDArray[np.float64]]", target: DeviceTarget) -> Tensor:
    return target.send(np.stack(values).astype(np.float32), target.compute)
