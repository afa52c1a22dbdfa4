"""One pass over resident rows for one or many adapters.

Runs over the same blocks become one product that writes into the results' memory.

Nothing between rows and results is larger than a fixed number of numbers (or what one module
needs), and results of the element type computed in are written directly. A pass for a fixed set can
be repeated; on a GPU it then is a graph.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

from share_registry.materialize.bank import Holding
from share_registry.materialize.blocks import Member, floats
from share_registry.materialize.buffers import Buffers
from share_registry.materialize.device import DeviceTarget
from share_registry.materialize.factors import Factors
from share_registry.materialize.recipe import Recipe, Run, Scaled
from share_registry.names import Digest

ALIGNED: Final = 64
"""Numbers: what begins at a multiple of it begins a cache line in every element type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassJob:
    """Runs over the same blocks, one below the other: of whom, and from which row on."""

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


class Pass:
    """What is written for some adapters, where, and how.

    Args:
        holding: The adapters' recipes and rows.
        buffers: Memory of the results; a pass takes its part.
    """

    def __init__(self, holding: Holding[Recipe], target: DeviceTarget, buffers: Buffers) -> None:
        self._holding, self._target = holding, target
        target.use(holding.tensors())
        self._jobs = _jobs(holding.recipes, target)
        self._outs = carved(
            buffers, [(job.shape, target.of(job.runs[0][1].dtype)) for job in self._jobs]
        )
        self._kept = {
            digest: kept_copies(recipe.kept, target, buffers)
            for digest, recipe in holding.recipes.items()
        }

    def fill(self) -> None:
        """Write the results. Launches alone on a GPU."""
        for job, out in zip(self._jobs, self._outs, strict=True):
            self._fill(job, out)
        for digest, recipe in self._holding.recipes.items():
            for key, tensor in recipe.kept.items():
                self._kept[digest][key].copy_(tensor)

    def written(self) -> Iterator[tuple[torch.dtype, Tensor]]:
        """Yield the memory written, each piece with the element type that its tensors have in their files."""
        for job, out in zip(self._jobs, self._outs, strict=True):
            yield from ((run.dtype, out[:, first : first + run.rank]) for _, run, first in job.runs)
        yield from (
            (tensor.dtype, self._kept[digest][key])
            for digest, recipe in self._holding.recipes.items()
            for key, tensor in recipe.kept.items()
        )

    def results(self) -> dict[Digest, Factors]:
        """Return the tensors of every adapter, as views."""
        stacks: dict[Digest, dict[Member, tuple[Tensor, int]]] = {
            digest: {} for digest in self._holding.recipes
        }
        for job, out in zip(self._jobs, self._outs, strict=True):
            for digest, run, first in job.runs:
                rows = out[:, first : first + run.rank]
                stacks[digest].update((member, (rows, at)) for at, member in enumerate(run.members))
        return {
            digest: Factors(recipe.slots, stacks[digest], self._kept[digest])
            for digest, recipe in self._holding.recipes.items()
        }

    def _fill(self, job: PassJob, out: Tensor) -> None:
        direct, begins_with_rows = out.dtype == self._target.compute, job.begins_with_rows
        for begin, end in _chunks(job, direct=direct, numbers=self._target.scratch_numbers):
            made = (
                out[begin:end]
                if direct
                else out.new_empty((end - begin, *out.shape[1:]), dtype=self._target.compute)
            )
            for _, run, first in job.runs if begins_with_rows else ():
                self._scaled(run, made[:, first : first + run.rank], begin, end)
            self._products(job, made, begin, end, add=begins_with_rows)
            if not direct:
                out[begin:end].copy_(made)

    def _scaled(self, run: Run, made: Tensor, begin: int, end: int) -> None:
        """Write the rows that a scale each is multiplied with, for factors `begin` to `end` of a run; zero where there are none."""
        written = False
        for scaled in run.scaled:
            low, high = max(begin, scaled.at), min(end, scaled.at + scaled.count)
            if low < high:
                if not written and (low, high) != (begin, end):
                    made.zero_()
                    written = True
                self._one(
                    scaled,
                    made[low - begin : high - begin],
                    low - scaled.at,
                    high - scaled.at,
                    add=written,
                )
                written = True
        if not written:
            made.zero_()

    def _products(self, job: PassJob, made: Tensor, begin: int, end: int, *, add: bool) -> None:
        for number, dense in enumerate(job.runs[0][1].dense):
            weights = [run.dense[number].weights[begin:end] for _, run, _ in job.runs]
            gathered = weights[0] if len(weights) == 1 else torch.cat(weights, dim=1)
            rows = floats(
                self._holding.rows[dense.rows].slice(dense.place, begin, end), self._target.compute
            )
            if add or number:
                made.baddbmm_(gathered, rows)
            else:
                torch.bmm(gathered, rows, out=made)

    def _one(self, scaled: Scaled, made: Tensor, low: int, high: int, *, add: bool) -> None:
        rows, scales = (
            self._holding.rows[scaled.rows].slice(scaled.place, low, high),
            scaled.scales[low:high],
        )
        if add:
            made.addcmul_(floats(rows, made.dtype), scales)
        else:
            made.copy_(rows).mul_(scales)


class Fillable(Protocol):
    """A pass, fast or exact."""

    def fill(self) -> None:
        """Write the results."""
        ...


class Repeated:
    """A pass for a fixed set that can be run again and again into the same memory.

    On a GPU one graph launch.

    Args:
        one: The pass; it was filled once, so that everything that is made on first use is there.
    """

    def __init__(self, one: Fillable, target: DeviceTarget) -> None:
        self._one = one
        self._graph = self._captured() if target.is_cuda else None

    def run(self) -> None:
        """Write the results again."""
        if self._graph is None:
            self._one.fill()
        else:
            self._graph.replay()

    def _captured(self) -> "torch.cuda.CUDAGraph":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._one.fill()
        return graph


def carved(buffers: Buffers, wanted: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> list[Tensor]:
    """Return tensors of shapes and element types, one behind the other in one stretch for each type."""
    sizes = [torch.Size(shape).numel() for shape, _ in wanted]
    totals: dict[torch.dtype, int] = {}
    begins = []
    for size, (_, dtype) in zip(sizes, wanted, strict=True):
        begins.append(totals.get(dtype, 0))
        totals[dtype] = begins[-1] - (-size // ALIGNED) * ALIGNED
    stretches = {dtype: buffers.take(total, dtype) for dtype, total in totals.items()}
    return [
        stretches[dtype][begin : begin + size].view(shape)
        for begin, size, (shape, dtype) in zip(begins, sizes, wanted, strict=True)
    ]


def kept_copies(
    kept: Mapping[str, Tensor], target: DeviceTarget, buffers: Buffers
) -> dict[str, Tensor]:
    """Return memory for copies of the tensors kept bit for bit.

    What is resident is not the caller's.
    """
    return dict(
        zip(
            kept,
            carved(
                buffers,
                [(tuple(tensor.shape), target.of(tensor.dtype)) for tensor in kept.values()],
            ),
            strict=True,
        )
    )


def _jobs(recipes: Mapping[Digest, Recipe], target: DeviceTarget) -> list[PassJob]:
    """Put runs over the same blocks together.

    As many as there are where they are written directly, else so many that what is made in
    between stays small.
    """
    merged: dict[tuple[object, ...], list[list[tuple[Digest, Run, int]]]] = {}
    for digest, recipe in recipes.items():
        for number, run in enumerate(recipe.runs):
            over: tuple[object, ...] = tuple((dense.rows, dense.place) for dense in run.dense) or (
                digest,
                number,
            )
            jobs = merged.setdefault(
                (target.of(run.dtype), run.width, len(run.members), over), [[]]
            )
            first = jobs[-1][-1][2] + jobs[-1][-1][1].rank if jobs[-1] else 0
            if (
                first
                and target.of(run.dtype) != target.compute
                and (first + run.rank) * run.width > target.scratch_numbers
            ):
                jobs.append([])
                first = 0
            jobs[-1].append((digest, run, first))
    return [PassJob(runs=tuple(runs)) for jobs in merged.values() for runs in jobs]


def _chunks(job: PassJob, *, direct: bool, numbers: int) -> Iterator[tuple[int, int]]:
    """Split the factors of a job so that what is made in between has at most so many numbers, or is of one factor."""
    count, ranks, width = job.shape
    needs = [ranks * width] if not direct else []
    if len(job.runs) > 1:
        needs += [ranks * dense.weights.shape[2] for dense in job.runs[0][1].dense]
    needs += [dense.weights.shape[2] * width for dense in job.runs[0][1].dense]
    needs += [run.rank * width for _, run, _ in job.runs if run.scaled]
    step = max(1, numbers // max(needs, default=1))
    for begin in range(0, count, step):
        yield begin, min(count, begin + step)
