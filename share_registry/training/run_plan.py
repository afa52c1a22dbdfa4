"""What a run says of all its versions, and where they go."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from share_registry import kinds
from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import FilePath
from share_registry.names import alias_name, split_task, task_name
from share_registry.outside.files import Outside
from share_registry.registry.arguments import check_author
from share_registry.registry.commands.preconditions import check_labels, check_metrics
from share_registry.registry.location import absolute_place
from share_registry.registry.registry import Registry
from share_registry.values.policy import check_budget

# So that run, task and step fit into an idempotency key
_RUN: Final = re.compile(r"[!-~]{1,48}")

# Of waiting at the end of a training
_LONGEST_S: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What holds for all versions of a run; see `Committer`."""

    task: str
    run: str | None = None
    metric: str | None = None
    greater_is_better: bool | None = None
    best: str | None = "best"
    latest: str | None = None
    budget: float | None = None
    author: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    adapter_name: str | None = None
    max_waiting: int = 2
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        kinds.text("task", self.task)
        _, task = split_task(self.task) if "/" in self.task else (None, self.task)
        task_name(task)
        ensure(
            not self.run or (isinstance(self.run, str) and _RUN.fullmatch(self.run)),
            InvalidInputError(
                f"run is {kinds.shown(self.run)}, expected 1 to 48 printable ASCII characters "
                "without blanks.",
                hint="Give the id of the run, or leave it out.",
            ),
        )
        for alias in filter(None, (self.best, self.latest)):
            alias_name(alias)
        ensure(
            self.best is None or self.best != self.latest,
            InvalidInputError(
                f"best and latest are both the alias {self.best!r}.", hint="Give two names."
            ),
        )
        if self.budget is not None:
            check_budget(self.budget)
        if self.author is not None:
            check_author("author", self.author)
        check_labels(kinds.mapping("labels", self.labels))
        kinds.whole(1, "Give how many steps may wait.", most=1 << 16)(
            "max_waiting", self.max_waiting
        )
        ensure(
            isinstance(self.timeout_s, int | float) and 0 < self.timeout_s <= _LONGEST_S,
            InvalidInputError(
                f"timeout_s is {kinds.shown(self.timeout_s)}, expected seconds of at most a day.",
                hint="Give how long the end of a training may wait for its commits.",
            ),
        )
        if self.metric is not None:
            check_metrics({self.metric: 0.0})

    @property
    def is_greater_better(self) -> bool:
        """Whether more of the metric is better; unless told, of anything but a loss."""
        if self.greater_is_better is not None:
            return self.greater_is_better
        return not (self.metric or "").endswith("loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryPlace:
    """Where another process opens a registry.

    Attributes:
        location, store, space, author: As in `Registry.open`.
    """

    location: FilePath | None
    store: FilePath | None = None
    space: str | None = None
    author: str | None = None
    mode: str = "c"

    @classmethod
    def of(cls, registry: "Registry | FilePath | None") -> Self | None:
        """Return the place of a registry; None where other processes cannot open it.

        Raises InvalidInputError, RefusedError where it cannot be written.
        """
        outside = Outside()
        if not isinstance(registry, Registry):
            if registry is None:
                return cls(location=None)
            kinds.path("registry", registry)
            address = os.fspath(registry)
            ensure(
                not address.startswith("memory:"),
                InvalidInputError(
                    f"registry is {address!r}, which nobody could read afterwards.",
                    hint="Open it, and give the Registry.",
                ),
            )
            is_url = "://" in address
            return cls(location=address if is_url else outside.absolute(Path(address)))
        context = registry.context
        context.require_writable()
        # functions that check adapters may be of the caller's main module
        if context.place is None or not context.place.is_shared or context.checks:
            return None
        place = absolute_place(context.place, context.outside)
        store = place.store if isinstance(place.store, str | os.PathLike) else None
        return cls(
            location=store if place.catalog is None else place.catalog,
            store=None if place.catalog is None else store,
            space=registry.scope,
            author=context.author,
            mode="w",
        )

    def open_registry(self) -> Registry:
        """Open it; coded on the processor, which leaves the device to the training."""
        return Registry.open(
            self.location,
            store=self.store,
            space=self.space,
            author=self.author,
            mode=self.mode,
            device="cpu",
        )
