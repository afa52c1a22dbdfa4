"""RoutingIndex: which task version answers an input best.

dW of a LoRA reads of its input x only what lies in its row space, so training turns the row space
towards what the task's inputs have there. With V the orthonormal rows of one task at one module,
the share of an input is |V x|^2 / |x|^2, the mean over its tokens, then over modules. A V of r rows
has r / in of a vector of no direction: that is what a score is above or below, so that no task wins
by its rank. Inputs of a real model have directions that all of them share, and a task whose rows
have these is always ahead: where examples are at hand, each task is measured by its own mean and
standard deviation over them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from torch import Tensor
from typing_extensions import override

from share_registry import kinds
from share_registry.algebra.threads import one_thread
from share_registry.errors import IntegrityError, InvalidInputError, RefusedError, ensure
from share_registry.kinds import FilePath, shown, wrong_kind
from share_registry.look.units import count, size
from share_registry.outside.files import Kind, Outside
from share_registry.routing import routing_file
from share_registry.routing.observation import observe
from share_registry.routing.routing_table import RoutingTable
from share_registry.values.routes import Route, RoutedTask
from share_registry.values.sheet import Sheet, Shown

# What enters the modules of a base model: module -> (tokens, in) or (in,)
Activations = Mapping[str, Tensor]
_HINT: Final = "Give what `observe` returned: module -> tensor (tokens, in) or (in,)."


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class RoutingIndex(Shown):
    """The row spaces of task versions, module by module, kept apart from their registry.

    Made by `Registry.routing_index`, or read from a file by `load`. It never changes, and is safe
    for threads.

    Attributes:
        table: Its rows and figures; for modules of this package.
    """

    table: RoutingTable

    def __post_init__(self) -> None:
        if not isinstance(self.table, RoutingTable):
            hint = "Take what Registry.routing_index or RoutingIndex.load returns."
            raise wrong_kind("table", self.table, "a RoutingTable", hint)

    @property
    def tasks(self) -> tuple[RoutedTask, ...]:
        """The task versions, in the order of `scores`."""
        return self.table.tasks

    @property
    def modules(self) -> Mapping[str, int]:
        """Its modules, each with the width of its input."""
        return {name: rows.shape[1] for name, rows in self.table.rows.items()}

    @property
    def base_model(self) -> str:
        """Label of the base model, "" where the tasks name none."""
        return self.table.base_model

    @property
    def examples(self) -> int:
        """How many examples it was standardised by, 0 where it was not."""
        return self.table.examples

    @property
    def size_bytes(self) -> int:
        """Bytes of its rows in the file, nearly all that it has."""
        return sum(2 * rows.numel() for rows in self.table.rows.values())

    @classmethod
    @kinds.takes(path=kinds.path)
    def load(cls, path: FilePath) -> Self:
        """Read an index from its file, on the CPU.

        Raises:
            NotFoundError: there is no such file.
            IntegrityError: it is no routing index, damaged, or larger than `save` writes.
            FormatError: a later release wrote it.
            StoreError: the disk refuses.
        """
        place = Path(path)
        try:
            content = Outside().read(place, limit=routing_file.MOST_BYTES)
        except IntegrityError as error:
            raise IntegrityError(error.message, hint=routing_file.MAKE_ANEW) from error
        return cls(routing_file.read_table(content, subject=str(place)))

    @kinds.takes(path=kinds.path)
    def save(self, path: FilePath) -> Path:
        """Write the index as one safetensors file, atomically, over an earlier index alone.

        Raises:
            RefusedError: it would be larger than `load` reads, or something else is there.
            StoreError: the disk refuses.
        """
        outside = Outside()
        place = outside.absolute(Path(path))
        content = routing_file.write_table(self.table)
        ensure(
            not outside.exists(place) or _is_index(place, outside),
            RefusedError(
                f"{place} is there and is no routing index, so it is not overwritten.",
                hint="Give another file.",
            ),
        )
        outside.rewrite(place, content)
        return place

    def observe(self, model: Any, **inputs: Any) -> list[dict[str, Tensor]]:
        """Run the base model once, without gradients, and return what enters the index's modules.

        Args:
            model: The base model, in evaluation mode; no adapter may be active in it.
            inputs: What the model is called with. Positions that `attention_mask` (batch, tokens)
                has 0 at are left out.

        Returns:
            Per row of the batch: module -> (tokens, in).

        Raises:
            InvalidInputError: the model lacks a module, trains, or has an adapter that is active;
                or what enters a module cannot be told apart by rows.
        """
        return observe(model, self.modules, inputs)

    @one_thread()
    def scores(self, activations: "Activations | Tensor") -> Tensor:
        """Return the score of every task version for one input.

        Args:
            activations: Module -> (tokens, in) or (in,); modules that it lacks are left out. A
                single tensor is allowed where the index has one module.

        Returns:
            (tasks,) float64 on the CPU, in the order of `tasks`; -inf for one that has no row in
            any of these modules.

        Raises:
            InvalidInputError: no module in common, another width, or no finite number.
        """
        modules, shares = self._shares(activations)
        return self._scores(modules, shares)

    @kinds.takes(k=kinds.whole(1, "Give how many routes are returned at most."))
    @one_thread()
    def route(self, activations: "Activations | Tensor", k: int = 3) -> list[Route]:
        """Return the task versions that answer one input best, the best first.

        Args:
            activations: As in `scores`.
            k: At most so many; fewer where fewer have a row in these modules.

        Raises:
            InvalidInputError: as `scores`.
        """
        modules, shares = self._shares(activations)
        scores = self._scores(modules, shares)
        means = self.table.mean_over(modules, shares)
        best = torch.sort(scores, descending=True, stable=True).indices[:k].tolist()
        return [
            Route(ref=self.tasks[task].ref, score=float(scores[task]), share=float(means[task]))
            for task in best
            if scores[task] > -torch.inf
        ]

    @one_thread()
    def standardised(self, examples: "Iterable[Activations | Tensor]") -> "RoutingIndex":
        """Return an index whose scores are 0 in the mean over examples, with a deviation of 1.

        The examples should look like what is to be routed, of all kinds mixed; nobody need know
        which task each is for.

        Args:
            examples: At least 2, each as in `scores`. Modules that the first of them lacks are
                left out of the new index; the others must have all that the first has.

        Raises:
            InvalidInputError: fewer than 2, all alike for a task, or not as in `scores`.
        """
        modules: tuple[int, ...] = ()
        total = torch.zeros((), dtype=torch.float64, device="cpu")
        means: list[Tensor] = []
        for number, example in enumerate(_listed(examples)):
            present, shares = self._shares(example)
            modules = modules or present
            self._require(modules, present, number)
            total = total + shares
            means.append(self.table.mean_over(modules, shares))
        ensure(
            len(means) >= 2,
            InvalidInputError(
                f"{count(len(means), 'example')} to standardise by, expected 2 or more.",
                hint="Give a hundred or more inputs that look like what is to be routed.",
            ),
        )
        spread = torch.stack(means).std(0)
        has_rows = self.table.counts[list(modules)].sum(0) > 0
        alike = (has_rows & (spread <= 0)).nonzero().flatten().tolist()
        ensure(
            not alike,
            InvalidInputError(
                f"the examples have one share in {self.tasks[alike[0]].ref if alike else ''}, so "
                "there is no deviation to measure by.",
                hint="Give examples that differ.",
            ),
        )
        return RoutingIndex(
            replace(
                self.table.of_modules(modules),
                expected=total / len(means),
                spread=torch.where(has_rows, spread, 1.0),
                examples=len(means),
            )
        )

    @override
    def sheet(self) -> Sheet:
        rows = sum(len(rows) for rows in self.table.rows.values())
        facts = (
            ("modules", str(len(self.modules))),
            ("rows", str(rows)),
            ("base model", self.base_model or "not named"),
            ("standardised", f"by {count(self.examples, 'example')}" if self.examples else "no"),
        )
        title = f"routing index of {count(len(self.tasks), 'task version')}"
        return Sheet(
            title=f"{title}, {size(self.size_bytes)}",
            facts=facts,
            refs=tuple(task.ref for task in self.tasks),
        )

    def _shares(self, activations: "Activations | Tensor") -> tuple[tuple[int, ...], Tensor]:
        """Return the modules in common, by number, and the shares (modules, tasks) in them."""
        by_module = self._by_module(activations)
        common = tuple(
            number for number, module in enumerate(self.table.rows) if module in by_module
        )
        ensure(
            common,
            InvalidInputError(
                f"the activations are of {shown(sorted(by_module))}, the index has "
                f"{shown(sorted(self.modules))}: no module in common.",
                hint=_HINT,
            ),
        )
        return common, self.table.shares(common, by_module)

    def _by_module(self, activations: "Activations | Tensor") -> dict[str, Tensor]:
        if isinstance(activations, Tensor):
            ensure(
                len(self.modules) == 1,
                InvalidInputError(
                    f"a single tensor for an index of {len(self.modules)} modules.", hint=_HINT
                ),
            )
            return dict.fromkeys(self.modules, activations)
        if not isinstance(activations, Mapping):
            raise wrong_kind("activations", activations, "module -> tensor", _HINT)
        for name, x in activations.items():
            if not isinstance(name, str) or not isinstance(x, Tensor):
                raise wrong_kind(f"activations[{shown(name)}]", x, "a tensor by a name", _HINT)
        return dict(activations)

    def _scores(self, modules: tuple[int, ...], shares: Tensor) -> Tensor:
        table = self.table
        above = shares - table.expected[list(modules)]
        scores = table.mean_over(modules, above) / table.spread
        has_rows = table.counts[list(modules)].sum(0) > 0
        return torch.where(has_rows, scores, -torch.inf)

    def _require(self, modules: tuple[int, ...], present: tuple[int, ...], number: int) -> None:
        lacking = [list(self.modules)[module] for module in modules if module not in present]
        ensure(
            len(present) == len(modules) and not lacking,
            InvalidInputError(
                f"example {number + 1} has {len(present)} modules of the index, the first has "
                f"{len(modules)}; it lacks {shown(lacking)}.",
                hint="Give the same modules of every example.",
            ),
        )


def _listed(examples: Any) -> Iterable[Any]:
    """Check that examples are several, and no single input. Raises InvalidInputError."""
    is_several = isinstance(examples, Iterable) and not isinstance(
        examples, str | bytes | Mapping | Tensor
    )
    if not is_several:
        raise wrong_kind("examples", examples, "a list of activations", _HINT)
    several: Iterable[Any] = examples
    return several


def _is_index(path: Path, outside: Outside) -> bool:
    if outside.kind(path) is not Kind.FILE:
        return False
    beginning = outside.read_beginning(path, size=routing_file.BEGINNING)
    return routing_file.begins_index(beginning)
