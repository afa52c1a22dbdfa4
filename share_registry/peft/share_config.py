"""ShareConfig: where the basis is, how training starts, and how much is trained."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self

from peft import PeftConfig
from peft.utils.peft_types import PeftType

from share_registry import kinds
from share_registry.catalog.database_errors import without_password
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.outside.files import Outside
from share_registry.peft.subspace import Subspace, open_registry, read_subspace
from share_registry.registry.registry import Registry

NAME: Final = "SHARE"
_PAPER: Final = "The paper takes p = 8 and phi = 2 on GLUE."
_number: Final = kinds.of(int | float, "a number", "Give a float.")
# What members are, where they are not their default
_KINDS: Final = {
    "space": kinds.text,
    "basis": kinds.text,
    "init": kinds.text,
    "extra_directions": kinds.whole(0, _PAPER),
    "pseudo_rank": kinds.whole(1, _PAPER),
    "init_scale": _number,
    "seed": kinds.of(int, "a whole number", "Give an int."),
    "dropout": _number,
    "fan_in_fan_out": kinds.flag,
    "started_from": kinds.text,
}
# What the names of all parameters of the method begin with
PREFIX: Final = "share_"


@dataclass
class ShareConfig(PeftConfig):  # type: ignore[misc]
    """Training of coefficients in the basis of a space.

    What is saved beside the coefficients names the basis by its digest: loading reads it from the
    registry, wherever that lies by then.

    Attributes:
        registry: Directory or catalog URL of the registry, or a `Registry`; $SHARE_REGISTRY_URI
            where None or where the basis is not there.
        store: Directory of the store, with a catalog URL.
        space: The space; the registry's only one, or the session's, where None.
        basis: Digest of the basis; the space's current one where None.
        init: "noise": both sides small and random. "task:NAME" or "task:NAME@VERSION": the
            coefficients of a task, to train it further. "nearest": those of the task whose dW is
            nearest to all others'.
        extra_directions: Directions per module and side that are trained beside the basis (phi of
            the paper); the space's policy where None.
        pseudo_rank: Rank of what is trained (p of the paper); where None the rank of the task to
            start from, the space's policy, or 8.
        init_scale: Norm of the first dW of "noise", as a share of the module's weight.
        seed: Of everything random at the start; torch's generator where None.
        dropout: Probability that an input of the trained branch is dropped.
        target_modules: Modules to adapt, as PEFT matches them; all that the basis has where None.
        exclude_modules: Modules to leave alone, as PEFT matches them.
        layers_to_transform, layers_pattern: As in LoraConfig.
        modules_to_save: Modules trained and saved whole, such as a new head.
        fan_in_fan_out: Whether weights are stored (in, out), as GPT-2's are.
        started_from: The task version that training started from, `space/task@vN`; set when the
            subspace is read.
    """

    registry: str | None = None
    store: str | None = None
    space: str | None = None
    basis: str | None = None
    init: str = "noise"
    extra_directions: int | None = None
    pseudo_rank: int | None = None
    init_scale: float = 0.01
    seed: int | None = None
    dropout: float = 0.0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    started_from: str | None = None

    def __post_init__(self) -> None:
        if self.task_type is not None:
            # PEFT writes what it refuses into its error, and not everything can be written
            kinds.text("task_type", self.task_type)
        try:
            super().__post_init__()
        except ValueError as error:
            raise InvalidInputError(
                f"PEFT refuses the config: {error}", hint="See peft.PeftConfig."
            ) from error
        self.peft_type = PeftType(NAME)
        self._opened: Registry | None = None
        self._subspace: Subspace | None = None
        for name, check in _KINDS.items():
            if (value := getattr(self, name)) is not getattr(type(self), name):
                check(name, value)
        self._set_registry(self.registry, self.store)
        for name in ("target_modules", "exclude_modules"):
            if isinstance(modules := getattr(self, name), list):
                setattr(self, name, set(kinds.texts(name, modules)))
        ensure(
            self.init in ("noise", "nearest")
            or (self.init.startswith("task:") and len(self.init) > len("task:")),
            InvalidInputError(
                f"init {self.init!r} is not 'noise', 'nearest' or 'task:NAME'.",
                hint="Write init='task:cola' or init='task:cola@v3'.",
            ),
        )
        ensure(
            0 < self.init_scale < 1,
            InvalidInputError(
                f"init_scale {self.init_scale!r} is not between 0 and 1.",
                hint="At 0 no gradient would reach the coefficients.",
            ),
        )
        ensure(
            0 <= self.dropout < 1,
            InvalidInputError(
                f"dropout {self.dropout!r} is not in [0, 1).",
                hint="0.1 drops a tenth of the inputs.",
            ),
        )

    def resolve(self) -> Subspace:
        """Return the subspace that the config means, and write down what it left open.

        These are space, basis, extra directions, pseudo-rank and modules.

        Raises:
            NotFoundError: no registry has the basis, or the space has none.
            RefusedError: the basis has no module with directions on both sides.
            IntegrityError: the object is damaged.
        """
        if self._subspace is None:
            opening = (
                open_registry(self.registry, self.store, self.basis)
                if self._opened is None
                else nullcontext(self._opened)
            )
            with opening as registry:
                self._subspace = read_subspace(
                    registry,
                    space=self.space,
                    basis=self.basis,
                    init=self.init,
                    extra_directions=self.extra_directions,
                    pseudo_rank=self.pseudo_rank,
                )
        subspace = self._subspace
        self.space, self.basis = subspace.space, subspace.basis
        self.extra_directions = subspace.extra_directions
        self.pseudo_rank = subspace.pseudo_rank
        self.started_from = self.started_from or subspace.started_from
        if self.target_modules is None:
            self.target_modules = set(subspace.modules)  # type: ignore[assignment]
        return subspace

    def to_dict(self) -> dict[str, Any]:
        """Return the values as they are saved: without a password.

        What training started from is over, and later loading must not need it.
        """
        values: dict[str, Any] = super().to_dict()
        location = self.registry
        if location is not None and "://" in location:
            location = without_password(location)
        return values | {
            "registry": location,
            "init": "noise",
            "started_from": self.started_from or self.init,
        }

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> Self:
        """Read a saved config.

        `registry` (and `store`) say where the basis is now, where that is another place.
        """
        registry, store = kwargs.pop("registry", None), kwargs.pop("store", None)
        place = os.fspath(kinds.path("the config's place", pretrained_model_name_or_path))
        if subfolder is not None:
            kinds.path("subfolder", subfolder)
        try:
            config: Self = super().from_pretrained(place, subfolder=subfolder, **kwargs)
        except (ValueError, OSError) as error:
            raise NotFoundError(
                f"no config of an adapter can be read from {place!r}: {error}",
                hint="Give the directory that `save_pretrained` wrote.",
            ) from error
        if registry is not None:
            config._set_registry(registry, store)
        return config

    def _set_registry(self, registry: Any, store: Any) -> None:
        if isinstance(registry, Registry):
            self._opened, registry = registry, registry.location
        self.registry = None if registry is None else _absolute(kinds.path("registry", registry))
        self.store = None if store is None else _absolute(kinds.path("store", store))

    def __getstate__(self) -> dict[str, object]:
        """Leave out the open registry: a copy opens it itself."""
        return {**self.__dict__, "_opened": None, "_subspace": None}


def _absolute(place: kinds.FilePath) -> str:
    location, outside = os.fspath(place), Outside()
    return location if "://" in location else str(outside.absolute(Path(location)))


def _add_name(names: type[Enum]) -> None:
    """Add the method's name to the enum in which PEFT keeps those of all methods, once."""
    if NAME in names.__members__:
        return
    member = str.__new__(names, NAME)  # type: ignore[type-var]
    member._name_, member._value_ = NAME, NAME
    names._member_map_[NAME] = member
    names._member_names_.append(NAME)
    names._value2member_map_[NAME] = member
    type.__setattr__(names, NAME, member)


_add_name(PeftType)
