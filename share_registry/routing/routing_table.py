"""The rows of all task versions of a routing index, and the shares of an input in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import FactorPair
from share_registry.errors import InvalidInputError, ensure
from share_registry.routing.row_spaces import row_space
from share_registry.values.routes import RoutedTask

# Its rows are rounded to this element type, in which the file has them: they are at most 1, so that
# 11 bits are worth more than the range of bfloat16 (benchmarks/RESULTS.md, Routing)
ROWS: Final = torch.float16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoutingTable:
    """Orthonormal rows of task versions, stacked by module.

    Attributes:
        base_model: Label of the base model.
        tasks: The task versions.
        rows: Module -> (R, in) float32, of one task after the other; values of float16.
        counts: (modules, tasks) int64, how many of the rows are whose; 0 where dW is 0.
        expected: (modules, tasks) float64, the share that is expected: of an input of no direction,
            or the mean over examples.
        spread: (tasks,) float64, what scores are divided by: 1, or the standard deviation over
            examples.
        examples: How many, 0 for none.
    """

    base_model: str
    tasks: tuple[RoutedTask, ...]
    rows: Mapping[str, Tensor]
    counts: Tensor
    expected: Tensor
    spread: Tensor
    examples: int = 0

    def of_modules(self, modules: Sequence[int]) -> "RoutingTable":
        """Return the table of some modules, by number."""
        names = list(self.rows)
        return replace(
            self,
            rows={names[module]: self.rows[names[module]] for module in modules},
            counts=self.counts[list(modules)],
            expected=self.expected[list(modules)],
        )

    def shares(self, modules: Sequence[int], activations: Mapping[str, Tensor]) -> Tensor:
        """Return the shares (modules, tasks) of one input in some modules, by number; float64.

        Raises InvalidInputError for activations of another width, or no finite numbers.
        """
        names = list(self.rows)
        inside = []
        for module in modules:
            rows = self.rows[names[module]]
            units = _units(names[module], activations[names[module]], rows.shape[1])
            inside.append((units @ rows.mT).square().mean(0, dtype=torch.float64))
        counts = self.counts[list(modules)]
        shares = torch.zeros(counts.numel(), dtype=torch.float64, device="cpu")
        places = torch.arange(counts.numel(), dtype=torch.int64, device="cpu")
        owners = places.repeat_interleave(counts.flatten())
        return shares.index_add_(0, owners, torch.cat(inside)).reshape(counts.shape)

    def mean_over(self, modules: Sequence[int], values: Tensor) -> Tensor:
        """Return the mean (tasks,) of values (modules, tasks) over the modules that each task has.

        0 for one that has none of them.
        """
        has_rows = self.counts[list(modules)] > 0
        return torch.where(has_rows, values, 0.0).sum(0) / has_rows.sum(0).clamp_min(1)


def make_table(
    tasks: Iterable[tuple[RoutedTask, Iterable[FactorPair]]],
    *,
    base_model: str,
    max_rank: int | None,
) -> RoutingTable:
    """Return the table of task versions, each with its factor pairs.

    Args:
        tasks: Read one after another.
        base_model: Label of the base model.
        max_rank: At most so many rows of a task and module, the strongest; None for all.

    Raises InvalidInputError where a module has two widths, or no task has a row.
    """
    spaces: dict[str, dict[int, Tensor]] = {}
    routed: list[RoutedTask] = []
    for number, (task, pairs) in enumerate(tasks):
        routed.append(task)
        for pair in pairs:
            rows = row_space(pair, max_rank=max_rank)
            if len(rows):
                spaces.setdefault(pair.module, {})[number] = rows.to(ROWS)
    ensure(
        spaces,
        InvalidInputError(
            "no task has a row: dW is 0, or no module is a linear one that was asked for.",
            hint="Name other modules, or tasks that were trained.",
        ),
    )
    modules = sorted(spaces)
    for module in modules:
        _check_width(module, spaces[module], lambda number: routed[number].ref)
    counts = torch.tensor(
        [[len(spaces[name].get(task, ())) for task in range(len(routed))] for name in modules],
        dtype=torch.int64,
        device="cpu",
    )
    stacked = {name: torch.cat(list(spaces[name].values())).float() for name in modules}
    widths = torch.tensor(
        [rows.shape[1] for rows in stacked.values()], dtype=torch.int64, device="cpu"
    )
    return RoutingTable(
        base_model=base_model,
        tasks=tuple(routed),
        rows=stacked,
        counts=counts,
        expected=counts.double() / widths[:, None],
        spread=torch.ones(len(routed), dtype=torch.float64, device="cpu"),
    )


def _check_width(module: str, spaces: Mapping[int, Tensor], ref: Callable[[int], str]) -> None:
    first, *others = spaces
    unlike = [n for n in others if spaces[n].shape[1] != spaces[first].shape[1]]
    if unlike:
        raise InvalidInputError(
            f"module {module} of {ref(unlike[0])} is {spaces[unlike[0]].shape[1]} wide, of "
            f"{ref(first)} {spaces[first].shape[1]}.",
            hint="Make an index without it by modules=..., or of the tasks of one base model.",
        )


def _units(module: str, x: Tensor, width: int) -> Tensor:
    """Return tokens (tokens, in) as vectors of length 1, float32 on the CPU.

    Tokens that are 0 throughout are left out. Raises InvalidInputError.
    """
    hint = "Give what `observe` returned, or tensors (tokens, in) of what enters the module."
    ensure(
        x.dim() in (1, 2) and x.shape[-1] == width and x.is_floating_point() and not x.is_meta,
        InvalidInputError(
            f"activations of {module} are {list(x.shape)} of {x.dtype}, expected (tokens, {width}) "
            "of floats.",
            hint=hint,
        ),
    )
    # in float64 no square of a float32 overflows
    tokens = x.detach().to("cpu", torch.float64).reshape(-1, width)
    lengths = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True)
    longest = float(lengths.max()) if len(lengths) else 0.0
    ensure(
        0 < longest < inf,
        InvalidInputError(
            f"activations of {module} {list(x.shape)} are NaN, infinite, or 0 throughout.",
            hint=hint,
        ),
    )
    if float(lengths.min()) == 0:
        tokens, lengths = tokens[lengths[:, 0] > 0], lengths[lengths[:, 0] > 0]
    units: Tensor = tokens / lengths
    return units.float()
