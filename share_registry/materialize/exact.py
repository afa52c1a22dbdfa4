"""The exact path: the bytes of the reference reader, on any device, over resident rows.

As there (spec DEC-01 to DEC-08), every step is float64: exact products of integers, the terms in
order of source, own rows, the scale, the previous version as decoded, and one rounding to float32.
Whole runs are computed at once; products of integers are exact in any order, everything else is
elementwise.
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
from share_registry.materialize.decoder import Opened, Reader
from share_registry.materialize.device import Buffers, DeviceTarget
from share_registry.materialize.factors import dtypes_of, slots_of
from share_registry.materialize.fast import Output, carve
from share_registry.materialize.recipe import (
    Indexes,
    Recipe,
    coded_factors,
    has_rows,
    kept_tensors,
    split_runs,
)
from share_registry.names import Digest
from share_registry.stored import StoredSide

# The decoded factors of a previous version.
Before = Mapping[Member, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactTerm:
    """Integer coefficients over the rows of consecutive factors of one block.

    Attributes:
        coefficients: (G, r, k), integers in float32.
        powers: (G, 1, 1), powers of two in float64.
    """

    rows: RowsKey
    place: BlockPlace
    coefficients: Tensor
    powers: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRun:
    """Factors of one shape, r rows of width m, over the same blocks.

    Attributes:
        dtype: Element type of the tensors.
        own: Place of their own rows, None where they are zero.
        scales: (G, r, 1), float64.
        previous: Whether the previous version is added.
    """

    members: tuple[Member, ...]
    rank: int
    width: int
    dtype: torch.dtype
    terms: tuple[ExactTerm, ...]
    own: BlockPlace | None
    scales: Tensor
    previous: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (G, r, m)."""
        return len(self.members), self.rank, self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactVersion:
    """The runs of one version of a chain."""

    digest: Digest
    runs: tuple[ExactRun, ...]

    def tensors(self) -> Iterator[Tensor]:
        """Yield its numbers."""
        for run in self.runs:
            yield run.scales
            for term in run.terms:
                yield from (term.coefficients, term.powers)


def exact_recipe_of(
    reader: Reader, digest: Digest, indexes: Indexes, target: DeviceTarget
) -> Recipe[ExactVersion]:
    """Return how an adapter is computed: the versions of its chain, oldest first.

    Arguments and errors are those of `recipe_of`.
    """
    chain = reader.chain(digest)
    versions = [
        ExactVersion(
            digest=version, runs=tuple(_runs(version, reader.open(version), indexes, target))
        )
        for version in reversed(chain)
    ]
    keys = {RowsKey(version, kept=True) for version in chain} & indexes.keys()
    for version in versions:
        keys |= {term.rows for run in version.runs for term in run.terms}
        keys |= {RowsKey(version.digest) for run in version.runs if run.own is not None}
    opened = reader.open(digest)
    return Recipe(
        slots=slots_of(opened.layout),
        parts=tuple(versions),
        kept=kept_tensors(reader, opened, target),
        rows=dict.fromkeys(keys, False),
    )


class ExactPass:
    """As `Pass`, with the reference path's bytes."""

    def __init__(
        self, holding: Holding[ExactVersion], target: DeviceTarget, buffers: Buffers
    ) -> None:
        self._holding, self._target = holding, target
        target.use(holding.tensors())
        last = [
            (digest, run)
            for digest, recipe in holding.recipes.items()
            for run in recipe.parts[-1].runs
        ]
        self._outs = carve(buffers, [(run.shape, target.of(run.dtype)) for _, run in last])
        pieces = [
            (digest, run.members, run.dtype, out)
            for (digest, run), out in zip(last, self._outs, strict=True)
        ]
        self.output = Output(holding, target, buffers, pieces)

    def fill(self) -> None:
        """Write the results."""
        outs = iter(self._outs)
        for digest, recipe in self._holding.recipes.items():
            before: Before = {}
            for version in recipe.parts[:-1]:
                before = self._decode(version, before)
            for run in recipe.parts[-1].runs:
                self._fill(digest, run, before, next(outs), run.dtype)
        self.output.copy_kept()

    def _decode(self, version: ExactVersion, before: Before) -> Before:
        """Return every factor of a previous version in float32, in memory of its own."""
        device = self._target.device
        outs = [torch.empty(run.shape, dtype=torch.float32, device=device) for run in version.runs]
        for run, out in zip(version.runs, outs, strict=True):
            self._fill(version.digest, run, before, out, torch.float32)
        decoded = {
            member: out[at]
            for run, out in zip(version.runs, outs, strict=True)
            for at, member in enumerate(run.members)
        }
        kept = self._holding.rows.get(RowsKey(version.digest, kept=True))
        if kept is not None:
            places = kept.index.places
            decoded |= {member: kept.slice(place, 0, 1)[0] for member, place in places.items()}
        return decoded

    def _fill(
        self, digest: Digest, run: ExactRun, before: Before, out: Tensor, dtype: torch.dtype
    ) -> None:
        """Write the factors of a run (spec DEC-06, DEC-08).

        They are rounded to float32, then to an element type, and then to that of the result.
        """
        step = max(1, self._target.scratch_numbers // (run.rank * run.width))
        for begin in range(0, len(run.members), step):
            end = min(len(run.members), begin + step)
            # spec DEC-05
            total = self._total(digest, run, begin, end).mul_(run.scales[begin:end])
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
        if run.own is not None:
            own = self._holding.rows[RowsKey(digest)].slice(run.own, begin, end).double()
            return own if total is None else total.add_(own)
        if total is None:
            return torch.zeros(
                (end - begin, run.rank, run.width), dtype=torch.float64, device=self._target.device
            )
        # zero is added all the same: the sum of products may be -0.0
        return total.add_(0.0)


def _runs(
    digest: Digest, opened: Opened, indexes: Indexes, target: DeviceTarget
) -> Iterator[ExactRun]:
    own_key, sources = RowsKey(digest), opened.stored.sources
    dtypes, alike = dtypes_of(opened.layout), dict[Any, list[tuple[Member, StoredSide]]]()
    for member, _, stored in coded_factors(opened):
        shape = stored.own.shape
        _check_before(opened, member, stored, indexes)
        terms = tuple(_sources(opened, member, stored, indexes))
        has_own = has_rows(indexes[own_key], own_key, member, shape)
        over = (*(RowsKey(sources[number]) for number in terms), *([own_key] if has_own else []))
        kind = (shape, dtypes[member], terms, has_own, stored.previous)
        alike.setdefault((over, kind), []).append((member, stored))
    for over, kind, members, sides in split_runs(alike, indexes):
        shape, dtype, terms, has_own, previous = kind
        yield ExactRun(
            members=tuple(members),
            rank=shape[0],
            width=shape[1],
            dtype=dtype,
            terms=tuple(
                _term(key, indexes[key].places[members[0]], number, sides, target)
                for key, number in zip(over, terms, strict=False)
            ),
            own=indexes[own_key].places[members[0]] if has_own else None,
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
        if has_rows(indexes[key], key, member, (k, stored.own.shape[1])):
            largest = [[indexes[key].largest[member]]] * k
            bits = product_bits(
                torch.from_numpy(term.coefficients),
                torch.tensor(largest, dtype=torch.int64, device="cpu"),
            )
            if bits > MAX_PRODUCT_BITS:
                raise IntegrityError(
                    f"module {member[0]!r} side {member[1]}: coefficients and rows need {bits}"
                    f" bits, more than the {MAX_PRODUCT_BITS} that are exact."
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
    key = kept if kept in indexes and member in indexes[kept].shapes else RowsKey(digest)
    has_rows(indexes[key], key, member, stored.own.shape)


def _term(
    key: RowsKey, place: BlockPlace, source: int, sides: list[StoredSide], target: DeviceTarget
) -> ExactTerm:
    terms = [next(term for term in side.terms if term.source == source) for side in sides]
    return ExactTerm(
        rows=key,
        place=place,
        coefficients=target.send(np.stack([term.coefficients for term in terms]), torch.float32),
        powers=target.send(np.array([2.0**term.exponent for term in terms])[:, None, None]),
    )
