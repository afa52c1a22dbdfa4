"""The fast path: one pass over resident rows for one or many adapters.

Runs over the same blocks become one product that writes into the results' memory.

Nothing between rows and results is larger than a fixed number of numbers (or what one module
needs), and results of the element type computed in are written directly. A pass for a fixed set can
be repeated; on a GPU it then is a graph.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic

import torch
from torch import Tensor

from share_registry.materialize.bank import Holding
from share_registry.materialize.blocks import Member
from share_registry.materialize.device import Buffers, DeviceTarget
from share_registry.materialize.factors import Factors
from share_registry.materialize.recipe import P, Recipe, Run
from share_registry.names import Digest

# What begins at a multiple of it begins a cache line in every element type.
ALIGNED_NUMBERS: Final = 64

# Rows of some factors of an adapter in the memory written, and the element type that they are
# stored in.
Piece = tuple[Digest, Sequence[Member], torch.dtype, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassJob:
    """Runs over the same blocks, one below the other, each with its adapter and first row."""

    runs: tuple[tuple[Digest, Run, int], ...]

    @property
    def begins_with_rows(self) -> bool:
        """Tell whether products are added to something."""
        return any(run.scaled or not run.dense for _, run, _ in self.runs)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (G, R, m): factors, rows of all runs, width."""
        run = self.runs[0][1]
        return len(run.members), sum(run.rank for _, run, _ in self.runs), run.width


class Output(Generic[P]):
    """The memory that a pass writes: rows of factors, and copies of the tensors kept bit for bit.

    They are copied because residents are not the caller's.

    Args:
        holding: The adapters.
        target: The device they are on.
        buffers: Memory of the copies.
        pieces: What the pass writes itself.
    """

    def __init__(
        self,
        holding: Holding[P],
        target: DeviceTarget,
        buffers: Buffers,
        pieces: Sequence[Piece],
    ) -> None:
        self._recipes, self._pieces = holding.recipes, pieces
        self._copies: dict[Digest, dict[str, Tensor]] = {}
        for digest, recipe in holding.recipes.items():
            places = [(tuple(kept.shape), target.of(kept.dtype)) for kept in recipe.kept.values()]
            self._copies[digest] = dict(zip(recipe.kept, carve(buffers, places), strict=True))

    def copy_kept(self) -> None:
        """Write the copies."""
        for tensor, copy in self._kept():
            copy.copy_(tensor)

    def written(self) -> Iterator[tuple[torch.dtype, Tensor]]:
        """Yield the memory written, each piece with the element type of its tensors in files."""
        yield from ((dtype, rows) for *_, dtype, rows in self._pieces)
        yield from ((tensor.dtype, copy) for tensor, copy in self._kept())

    def factors(self) -> dict[Digest, Factors]:
        """Return the tensors of every adapter, as views."""
        stacks: dict[Digest, dict[Member, tuple[Tensor, int]]] = {
            digest: {} for digest in self._recipes
        }
        for digest, members, _, rows in self._pieces:
            stacks[digest].update((member, (rows, at)) for at, member in enumerate(members))
        return {
            digest: Factors(recipe.slots, stacks[digest], self._copies[digest])
            for digest, recipe in self._recipes.items()
        }

    def _kept(self) -> Iterator[tuple[Tensor, Tensor]]:
        for digest, recipe in self._recipes.items():
            yield from zip(recipe.kept.values(), self._copies[digest].values(), strict=True)


class Pass:
    """Writes the tensors of some adapters.

    Args:
        holding: The adapters' recipes and rows.
        target: The device they are on.
        buffers: Memory of the results; a pass takes its part.
    """

    def __init__(self, holding: Holding[Run], target: DeviceTarget, buffers: Buffers) -> None:
        self._holding, self._target = holding, target
        target.use(holding.tensors())
        self._jobs = _jobs(holding.recipes, target)
        self._outs = carve(
            buffers, [(job.shape, target.of(job.runs[0][1].dtype)) for job in self._jobs]
        )
        pieces = [
            (digest, run.members, run.dtype, out[:, first : first + run.rank])
            for job, out in zip(self._jobs, self._outs, strict=True)
            for digest, run, first in job.runs
        ]
        self.output = Output(holding, target, buffers, pieces)

    def fill(self) -> None:
        """Write the results. Launches alone on a GPU."""
        for job, out in zip(self._jobs, self._outs, strict=True):
            self._fill(job, out)
        self.output.copy_kept()

    def _fill(self, job: PassJob, out: Tensor) -> None:
        compute, begins_with_rows = self._target.compute, job.begins_with_rows
        direct = out.dtype == compute
        for begin, end in _chunks(job, direct=direct, numbers=self._target.scratch_numbers):
            part = out[begin:end]
            stack = part if direct else torch.empty_like(part, dtype=compute)
            for _, run, first in job.runs if begins_with_rows else ():
                self._fill_scaled(run, stack[:, first : first + run.rank], begin, end)
            self._fill_products(job, stack, begin, end, add=begins_with_rows)
            if not direct:
                part.copy_(stack)

    def _fill_scaled(self, run: Run, stack: Tensor, begin: int, end: int) -> None:
        """Write rows times their scales, for factors `begin` to `end` of a run; else zero."""
        written = False
        for scaled in run.scaled:
            low, high = max(begin, scaled.at), min(end, scaled.at + scaled.count)
            if low >= high:
                continue
            if not written and (low, high) != (begin, end):
                stack.zero_()
                written = True
            place = stack[low - begin : high - begin]
            rows = self._holding.rows[scaled.rows].slice(
                scaled.place, low - scaled.at, high - scaled.at
            )
            scales = scaled.scales[low - scaled.at : high - scaled.at]
            if written:
                place.addcmul_(rows.to(place.dtype), scales)
            else:
                place.copy_(rows).mul_(scales)
            written = True
        if not written:
            stack.zero_()

    def _fill_products(
        self, job: PassJob, stack: Tensor, begin: int, end: int, *, add: bool
    ) -> None:
        for number, dense in enumerate(job.runs[0][1].dense):
            weights = [run.dense[number].weights[begin:end] for _, run, _ in job.runs]
            gathered = weights[0] if len(weights) == 1 else torch.cat(weights, dim=1)
            block = self._holding.rows[dense.rows].slice(dense.place, begin, end)
            # themselves where they are kept in that element type
            block = block.to(self._target.compute)
            if add or number:
                stack.baddbmm_(gathered, block)
            else:
                torch.bmm(gathered, block, out=stack)


class RepeatedPass:
    """A pass for a fixed set that can be run again and again into the same memory.

    On a GPU it is one graph launch.

    Args:
        fill: The pass's method. It was called once, so that everything that is made on first use
            is there.
        target: The device.
    """

    def __init__(self, fill: Callable[[], None], target: DeviceTarget) -> None:
        self._fill = fill
        self._graph = torch.cuda.CUDAGraph() if target.is_cuda else None
        if self._graph is not None:
            with torch.cuda.graph(self._graph):
                fill()

    def run(self) -> None:
        """Write the results again."""
        if self._graph is None:
            self._fill()
        else:
            self._graph.replay()


def carve(buffers: Buffers, places: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    """Return tensors of shapes and element types, one behind the other in a stretch per type."""
    sizes = [torch.Size(shape).numel() for shape, _ in places]
    totals: dict[torch.dtype, int] = {}
    begins = []
    for size, (_, dtype) in zip(sizes, places, strict=True):
        begins.append(totals.get(dtype, 0))
        totals[dtype] = begins[-1] - (-size // ALIGNED_NUMBERS) * ALIGNED_NUMBERS
    stretches = {dtype: buffers.take(total, dtype) for dtype, total in totals.items()}
    return [
        stretches[dtype][begin : begin + size].view(shape)
        for begin, size, (shape, dtype) in zip(begins, sizes, places, strict=True)
    ]


def _jobs(recipes: Mapping[Digest, Recipe[Run]], target: DeviceTarget) -> list[PassJob]:
    """Put runs over the same blocks together.

    As many as there are where they are written directly, else so many that what is computed in
    between stays small.
    """
    merged: dict[tuple[object, ...], list[list[tuple[Digest, Run, int]]]] = {}
    for digest, recipe in recipes.items():
        for number, run in enumerate(recipe.parts):
            dtype = target.of(run.dtype)
            blocks = tuple((dense.rows, dense.place) for dense in run.dense)
            kind = (dtype, run.width, len(run.members), blocks or (digest, number))
            jobs = merged.setdefault(kind, [[]])
            first = jobs[-1][-1][2] + jobs[-1][-1][1].rank if jobs[-1] else 0
            is_full = (first + run.rank) * run.width > target.scratch_numbers
            if first and dtype != target.compute and is_full:
                jobs.append([])
                first = 0
            jobs[-1].append((digest, run, first))
    return [PassJob(runs=tuple(runs)) for jobs in merged.values() for runs in jobs]


def _chunks(job: PassJob, *, direct: bool, numbers: int) -> Iterator[tuple[int, int]]:
    """Split the factors of a job into ranges.

    What is computed in between has at most so many numbers, or is of one factor.
    """
    count, ranks, width = job.shape
    ks = [dense.weights.shape[2] for dense in job.runs[0][1].dense]
    needs = [k * width for k in ks]
    needs += [run.rank * width for _, run, _ in job.runs if run.scaled]
    if not direct:
        needs.append(ranks * width)
    if len(job.runs) > 1:
        needs += [ranks * k for k in ks]
    step = max(1, numbers // max(needs, default=1))
    for begin in range(0, count, step):
        yield begin, min(count, begin + step)
