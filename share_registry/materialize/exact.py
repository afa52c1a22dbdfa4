"""The exact path: the bytes of the reference reader, on any device, over rows that are resident (spec DEC-01 to DEC-08).

As there, every step is float64: exact products of integers, the terms in order of source, own rows,
the scale, the previous version as decoded, and one rounding to float32. Whole runs are computed at
once; products of integers are exact in any order, everything else is elementwise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.decode import MAX_PRODUCT_BITS, product_bits
from share_registry.errors import IntegrityError
from share_registry.materialize.bank import Holding
from share_registry.materialize.blocks import BlockPlace, Member, RowsKey
from share_registry.materialize.buffers import Buffers
from share_registry.materialize.decoder import Opened, Reader
from share_registry.materialize.device import DeviceTarget
from share_registry.materialize.factors import Factors, Slot, dtypes_of, slots_of
from share_registry.materialize.fast import carved, kept_copies
from share_registry.materialize.recipe import Indexes, consecutive, kept_tensors, placed
from share_registry.names import Digest, Side
from share_registry.stored import StoredSide

Before = Mapping[Member, Tensor]
"""The decoded factors of a previous version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactTerm:
    """Integers (G, r, k), held by float32, over the rows of consecutive factors of one block, and powers of two (G, 1, 1) float64."""

    rows: RowsKey
    place: BlockPlace
    coefficients: Tensor
    powers: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRun:
    """Factors of one shape over the same blocks.

    `own` is the place of their own rows, None where they are zero; scales (G, r, 1) float64.
    """

    members: tuple[Member, ...]
    rank: int
    width: int
    dtype: torch.dtype
    terms: tuple[ExactTerm, ...]
    own: BlockPlace | None
    scales: Tensor
    previous: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRecipe:
    """One adapter, and the version before where one enters.

    Attributes:
        kept_before: Factors that a later version builds upon and that are kept bit for bit here.
    """

    digest: Digest
    slots: Mapping[str, Slot]
    runs: tuple[ExactRun, ...]
    kept: Mapping[str, Tensor]
    kept_before: Mapping[Member, BlockPlace]
    before: "ExactRecipe | None"
    rows: Mapping[RowsKey, bool]

    @property
    def size_bytes(self) -> int:
        """Bytes of its numbers."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers, and those of the version before."""
        yield from self.kept.values()
        for run in self.runs:
            yield run.scales
            for term in run.terms:
                yield from (term.coefficients, term.powers)
        if self.before is not None:
            yield from self.before.tensors()


def exact_recipe_of(
    reader: Reader, digest: Digest, indexes: Indexes, target: DeviceTarget
) -> ExactRecipe:
    """Return how an adapter is made; arguments and errors as in `recipe_of`."""
    return _recipe(reader, digest, indexes, target, is_last=True)


def _recipe(
    reader: Reader, digest: Digest, indexes: Indexes, target: DeviceTarget, *, is_last: bool
) -> ExactRecipe:
    opened = reader.open(digest)
    before = (
        None
        if opened.stored.previous is None
        else _recipe(reader, opened.stored.previous, indexes, target, is_last=False)
    )
    runs = tuple(_runs(digest, opened, indexes, target))
    kept = (
        {key: target.send(tensor) for key, tensor in kept_tensors(reader, digest, opened).items()}
        if is_last
        else {}
    )
    kept_key = RowsKey(digest, kept=True)
    keys = (
        {term.rows for run in runs for term in run.terms}
        | {RowsKey(digest) for run in runs if run.own is not None}
        | ({kept_key} & indexes.keys())
    )
    rows = dict.fromkeys(keys, False) | (dict(before.rows) if before else {})
    return ExactRecipe(
        digest=digest,
        slots=slots_of(opened.layout),
        runs=runs,
        kept=kept,
        kept_before=indexes[kept_key].places if kept_key in indexes else {},
        before=before,
        rows=rows,
    )


class ExactPass:
    """As `Pass`, with the reference path's bytes."""

    def __init__(
        self, holding: Holding[ExactRecipe], target: DeviceTarget, buffers: Buffers
    ) -> None:
        self._holding, self._target = holding, target
        target.use(holding.tensors())
        wanted = [
            ((len(run.members), run.rank, run.width), target.of(run.dtype))
            for recipe in holding.recipes.values()
            for run in recipe.runs
        ]
        outs = iter(carved(buffers, wanted))
        self._outs = {
            digest: [next(outs) for _ in recipe.runs] for digest, recipe in holding.recipes.items()
        }
        self._kept = {
            digest: kept_copies(recipe.kept, target, buffers)
            for digest, recipe in holding.recipes.items()
        }

    def fill(self) -> None:
        """Write the results."""
        for digest, recipe in self._holding.recipes.items():
            before = self._decoded(recipe.before)
            for run, out in zip(recipe.runs, self._outs[digest], strict=True):
                self._fill(recipe.digest, run, before, out, run.dtype)
            for key, tensor in recipe.kept.items():
                self._kept[digest][key].copy_(tensor)

    def written(self) -> Iterator[tuple[torch.dtype, Tensor]]:
        """Yield the memory written, each piece with the element type that its tensors have in their files."""
        for digest, recipe in self._holding.recipes.items():
            yield from (
                (run.dtype, out) for run, out in zip(recipe.runs, self._outs[digest], strict=True)
            )
            yield from (
                (tensor.dtype, self._kept[digest][key]) for key, tensor in recipe.kept.items()
            )

    def results(self) -> dict[Digest, Factors]:
        """Return the tensors of every adapter, as views."""
        return {
            digest: Factors(recipe.slots, _stacks(recipe, self._outs[digest]), self._kept[digest])
            for digest, recipe in self._holding.recipes.items()
        }

    def _decoded(self, recipe: ExactRecipe | None) -> Before:
        """Return every factor of a previous version in float32, in memory of its own."""
        if recipe is None:
            return {}
        before = self._decoded(recipe.before)
        outs = [
            torch.empty(
                len(run.members),
                run.rank,
                run.width,
                dtype=torch.float32,
                device=self._target.device,
            )
            for run in recipe.runs
        ]
        for run, out in zip(recipe.runs, outs, strict=True):
            self._fill(recipe.digest, run, before, out, torch.float32)
        kept = {
            member: self._holding.rows[RowsKey(recipe.digest, kept=True)].slice(place, 0, 1)[0]
            for member, place in recipe.kept_before.items()
        }
        return kept | {member: stack[at] for member, (stack, at) in _stacks(recipe, outs).items()}

    def _fill(
        self, digest: Digest, run: ExactRun, before: Before, out: Tensor, dtype: torch.dtype
    ) -> None:
        """Write factors: rounded to float32, then to an element type, and then to that of the result (spec DEC-06, DEC-08)."""
        step = max(1, self._target.scratch_numbers // (run.rank * run.width))
        for begin in range(0, len(run.members), step):
            end = min(len(run.members), begin + step)
            total = self._total(digest, run, begin, end).mul_(run.scales[begin:end])  # spec DEC-05
            for at, member in enumerate(run.members[begin:end]) if run.previous else ():
                total[at] += before[member]
            out[begin:end].copy_(total.to(torch.float32).to(dtype))

    def _total(self, digest: Digest, run: ExactRun, begin: int, end: int) -> Tensor:
        """Return the terms and own rows, before they are scaled, in float64."""
        total: Tensor | None = None
        for term in run.terms:
            block = self._holding.rows[term.rows].slice(term.place, begin, end).double()
            product = torch.bmm(term.coefficients[begin:end].double(), block).mul_(
                term.powers[begin:end]
            )
            total = product if total is None else total.add_(product)
        if run.own is None:  # zero is added all the same: the sum of products may be -0.0
            return (
                torch.zeros(
                    end - begin,
                    run.rank,
                    run.width,
                    dtype=torch.float64,
                    device=self._target.device,
                )
                if total is None
                else total.add_(0.0)
            )
        own = self._holding.rows[RowsKey(digest)].slice(run.own, begin, end).double()
        return own if total is None else total.add_(own)


def _stacks(recipe: ExactRecipe, outs: list[Tensor]) -> dict[Member, tuple[Tensor, int]]:
    return {
        member: (out, at)
        for run, out in zip(recipe.runs, outs, strict=True)
        for at, member in enumerate(run.members)
    }


def _runs(
    digest: Digest, opened: Opened, indexes: Indexes, target: DeviceTarget
) -> Iterator[ExactRun]:
    dtypes, alike = dtypes_of(opened.layout), dict[Any, list[tuple[Member, StoredSide]]]()
    for shape, module in zip(opened.layout.modules(), opened.stored.modules, strict=True):
        for side, stored in ((Side.A, module.a), (Side.B, module.b)) if module is not None else ():
            member = (shape.module, side)
            _check_before(opened, member, stored, indexes)
            over = tuple(source for source in _sources(opened, member, stored, indexes))
            own = placed(indexes[RowsKey(digest)], RowsKey(digest), member, stored.own.shape)
            alike.setdefault(
                (stored.own.shape, dtypes[member], over, own, stored.previous), []
            ).append((member, stored))
    for (shape, dtype, over, own, previous), found in alike.items():
        keys = [
            *(RowsKey(opened.stored.sources[source]) for source in over),
            *([RowsKey(digest)] if own else []),
        ]
        where = [[indexes[key].places[member] for key in keys] for member, _ in found]
        for begin, end in consecutive(found, where):
            sides = [stored for _, stored in found[begin:end]]
            yield ExactRun(
                members=tuple(member for member, _ in found[begin:end]),
                rank=shape[0],
                width=shape[1],
                dtype=dtype,
                terms=tuple(
                    _term(keys[number], where[begin][number], source, sides, target)
                    for number, source in enumerate(over)
                ),
                own=where[begin][-1] if own else None,
                scales=target.send(
                    np.stack([side.scales for side in sides])[:, :, None], torch.float64
                ),
                previous=previous,
            )


def _sources(opened: Opened, member: Member, stored: StoredSide, indexes: Indexes) -> Iterator[int]:
    """Yield the sources whose rows of a factor are not zero, checked.

    Raises IntegrityError where a product may not be exact.
    """
    for term in stored.terms:
        key, k = RowsKey(opened.stored.sources[term.source]), term.coefficients.shape[1]
        if placed(indexes[key], key, member, (k, stored.own.shape[1])):
            bits = product_bits(
                torch.from_numpy(term.coefficients),
                torch.tensor([[indexes[key].largest[member]]] * k, dtype=torch.int64, device="cpu"),
            )
            if bits > MAX_PRODUCT_BITS:
                raise IntegrityError(
                    f"module {member[0]!r} side {member[1]}: coefficients and rows need {bits} bits, more than the {MAX_PRODUCT_BITS} that are exact."
                )
            yield term.source


def _check_before(opened: Opened, member: Member, stored: StoredSide, indexes: Indexes) -> None:
    if not stored.previous:
        return
    digest = opened.stored.previous
    if digest is None:
        raise IntegrityError(
            f"module {member[0]!r} refers to a previous version that is not named."
        )
    kept = RowsKey(digest, kept=True)
    is_kept = kept in indexes and member in indexes[kept].shapes
    placed(indexes[kept if is_kept else RowsKey(digest)], RowsKey(digest), member, stored.own.shape)


def _term(
    key: RowsKey, place: BlockPlace, source: int, sides: list[StoredSide], target: DeviceTarget
) -> ExactTerm:
    terms = [next(term for term in side.terms if term.source == source) for side in sides]
    powers = np.array([2.0**term.exponent for term in terms])[:, None, None]
    coefficients = np.stack([term.coefficients for term in terms])
    return ExactTerm(
        rows=key,
        place=place,
        coefficients=target.send(coefficients, torch.float32),
        powers=target.send(powers),
    )
