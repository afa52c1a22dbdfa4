"""Everything that anybody may call, found by looking, and a registry to call it on."""

import copy
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final

import peft
import torch
from torch import nn

import share_registry as sr
from share_registry import peft as sr_peft
from share_registry.outside.files import Outside
from share_registry.store.blobs import MemoryStore
from share_registry.store.local import LocalStore
from share_registry.testing import stores
from tests.keys import write_keys
from tests.registry.strange import (
    CONFIG,
    adapter_tensors,
    spoil,
    write_adapter,
)

SPACE: Final = "tiny"
TASKS: Final = 3
# What is public by name and called by this package alone, by PEFT, or by what inherits
NOT_CALLED: Final = {
    *("context", "listing", "sheet", "target_module_mapping", "tuner_layer_cls"),
    *("create", "replace", "read", "sizes"),
}


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(12, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.proj(x)
        return result


class Tiny(nn.Module):
    """The base model."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@cache
def _plain_model() -> nn.Module:
    torch.manual_seed(0)
    return Tiny()


def plain_model() -> nn.Module:
    return copy.deepcopy(_plain_model())


def live_model() -> Any:
    """Return a model with the adapter "default" of the base model."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=["proj"],
        base_model_name_or_path="acme/tiny",
        init_lora_weights=False,
    )
    return peft.get_peft_model(plain_model(), config)


def write_template(root: Path) -> Path:
    """Write a registry of a few tasks, an alias that moved, a tag and a basis; and adapters."""
    for seed in range(TASKS + 2):
        write_adapter(root / "adapters" / f"t{seed}", adapter_tensors(seed))
    with sr.Registry.open(root / "registry", author="ada") as registry:
        space = registry.create_space(SPACE, base_model="acme/tiny")
        for seed in range(TASKS):
            space.commit(
                root / "adapters" / f"t{seed}", labels={"team": "a"}, metrics={"acc": seed / 4}
            )
        space.commit(root / "adapters" / "t3", task="t0", metrics={"acc": 0.9})
        space.set_alias("t0@v1", "prod", reason="first")
        space.set_alias("t0@v2", "prod", reason="better")
        space.tag("release", "@c3")
        space.refit(max_rank=4, force=True)
    # whoever has not the extra [signing] sees how it is asked for
    with suppress(ImportError):
        write_keys(root, "key")
    return root


class World:
    """A registry of one's own, and what its calls return."""

    # values that calls return, by the names of their classes
    values: ClassVar[dict[str, Any]] = {}

    def __init__(self, template: Path, root: Path) -> None:
        shutil.copytree(template, root)
        self.root = root
        self.adapters = root / "adapters"
        self.count = 0
        self._registry: sr.Registry | None = None

    @property
    def registry(self) -> sr.Registry:
        """The registry; opened again where a call closed it."""
        if self._registry is None or self._registry.context.closed:
            self._registry = sr.Registry.open(self.root / "registry", author="ada")
        return self._registry

    @property
    def space(self) -> sr.Space:
        return self.registry.space(SPACE)

    @property
    def materializer(self) -> sr.Materializer:
        return sr.Materializer(self.registry)

    def fresh(self, name: str) -> str:
        """Return a name that was not used yet."""
        self.count += 1
        return f"{name}{self.count}"

    def local_store(self) -> LocalStore:
        return LocalStore.create(self.folder(), Outside(), "5b6b0bd9-6f6b-4f0c-8a2f-3d1d6a0c8a11")

    def folder(self) -> Path:
        return self.root / self.fresh("made")

    def spoilt(self, how: Callable[[torch.Tensor], Any], which: int, *, on_disk: bool) -> Any:
        """Return an adapter with bad tensors: a directory, or one in memory."""
        tensors = spoil(adapter_tensors(7), how, which)
        if on_disk:
            return write_adapter(self.folder(), tensors)
        return replace(self.space.checkout("t0@v1"), tensors=tensors)

    def altered(self, name: str, value: Any) -> sr.Adapter:
        """Return an adapter in memory of which a member is something else."""
        return replace(self.space.checkout("t0@v1"), **{name: value})

    def configured(self, name: str, value: Any) -> Path:
        """Return an adapter whose config says something else."""
        return write_adapter(self.folder(), adapter_tensors(8), CONFIG | {name: value})

    def spoilt_model(self, how: Callable[[torch.Tensor], Any]) -> Any:
        model = live_model()
        for name, parameter in model.named_parameters():
            if "lora_A" in name:
                with suppress(RuntimeError):
                    parameter.data = how(parameter.data)
        return model

    def close(self) -> None:
        if self._registry is not None:
            self._registry.close()


@dataclass(frozen=True, kw_only=True)
class Door:
    """Something to call: `of` makes it in a world."""

    name: str
    of: Callable[[World], Callable[..., Any]]
    parameters: Mapping[str, inspect.Parameter]


def share_config(world: World) -> Any:
    return sr_peft.ShareConfig(
        registry=world.registry,  # type: ignore[arg-type]
        space=SPACE,
        seed=1,
        pseudo_rank=2,
        extra_directions=0,
    )


def share_model(world: World) -> Any:
    return peft.get_peft_model(plain_model(), share_config(world))


# What has methods of ours, by the name of its class
RECEIVERS: Final[Mapping[str, Callable[[World], Any]]] = MappingProxyType(
    {
        "Registry": lambda world: world.registry,
        "Space": lambda world: world.space,
        "Materializer": lambda world: world.materializer,
        "Buffers": lambda world: world.materializer.buffers(),
        "PreparedPass": lambda world: world.materializer.prepare(["t0"]),
        "Adapter": lambda world: world.space.checkout("t0"),
        "Policy": lambda world: world.space.summary.policy,
        "SpaceSummary": lambda world: world.space.summary,
        "Commit": lambda world: world.space.show("t0@v1"),
        "AdapterReport": lambda world: world.space.show("t0@v1").report,
        "Log": lambda world: world.space.log(),
        "Task": lambda world: world.space.tasks()[0],
        "Listing": lambda world: world.space.tasks(),
        "Lineage": lambda world: world.space.lineage("t0"),
        "ResolvedReference": lambda world: world.space.resolve("t0"),
        "Alias": lambda world: world.space.aliases()[0],
        "AliasMove": lambda world: world.space.alias_history("t0", "prod")[0],
        "Tag": lambda world: world.space.tags()[0],
        "Identity": lambda world: world.space.identify(world.adapters / "t1")[0],
        "Diff": lambda world: world.space.diff("t0@v1", "t0"),
        "Export": lambda world: world.space.export("t0", world.folder()),
        "Prepared": lambda world: world.space.prepare(world.adapters / "t1", task=world.fresh("p")),
        "ImportReport": lambda world: world.space.import_many(
            [world.adapters / "t4"], workers=1, dry_run=True
        ),
        "VerifyReport": lambda world: world.space.verify("quick"),
        "Basis": lambda world: world.space.basis(),
        "Checkpoint": lambda world: world.space.checkpoint(expires="1d"),
        "RoutingIndex": lambda world: world.space.routing_index(),
        "ReportPage": lambda world: world.space.report("t0"),
        "Retention": lambda world: world.space.retention(),
        "Analysis": lambda world: world.space.analyze(),
        "Similar": lambda world: world.space.similar("t0"),
        "LocalStore": lambda world: world.local_store(),
        "MemoryStore": lambda _: MemoryStore("5b6b0bd9-6f6b-4f0c-8a2f-3d1d6a0c8a11"),
        "ShareConfig": share_config,
        "ShareModel": lambda world: share_model(world).base_model,
    }
)


# Those that stand on the registry or the directory of one world
ATTACHED: Final = {
    *("Registry", "Space", "Materializer", "Buffers", "PreparedPass", "Export"),
    *("LocalStore", "MemoryStore", "ShareConfig", "ShareModel"),
}
# What is called on its own
FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "analyze": sr.analyze,
        "iterate": sr.iterate,
        "ImportSource": sr.ImportSource,
        "Policy": sr.Policy,
        "Policy.share": sr.Policy.share,
        "Registry.open": sr.Registry.open,
        "Materializer": sr.Materializer,
        "ShareConfig": sr_peft.ShareConfig,
        "put_bytes": stores.put_bytes,
        "verify_export": sr.verify_export,
        "clone": sr.clone,
    }
)


def _own_members(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the public members of a class that this package defines."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("share_registry")]
    seen = set(NOT_CALLED)
    for base in ours:
        for name, member in vars(base).items():
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, member


def _is_method(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, classmethod | staticmethod)


def _signature(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def _receiver(world: World, name: str) -> Any:
    """Return what has methods; a value, which never changes, is made once for all worlds."""
    if name in ATTACHED:
        return RECEIVERS[name](world)
    if name not in world.values:
        world.values[name] = RECEIVERS[name](world)
    return world.values[name]


def _call(receiver: str, method: str, world: World) -> Callable[..., Any]:
    return getattr(_receiver(world, receiver), method)  # type: ignore[no-any-return]


def _read_all(receiver: str, names: list[str], world: World) -> Callable[[], Any]:
    subject = _receiver(world, receiver)
    return lambda: [str(subject), repr(subject), *(getattr(subject, name) for name in names)]


def _itself(function: Callable[..., Any], _: World) -> Callable[..., Any]:
    return function


def doors(world: World) -> dict[str, Door]:
    """Return everything that may be called."""
    found = [
        Door(name=name, of=partial(_itself, function), parameters=_signature(function))
        for name, function in FUNCTIONS.items()
    ]
    for receiver, make in RECEIVERS.items():
        kind = type(make(world))
        members = dict(_own_members(kind))
        values = [name for name, member in members.items() if not _is_method(member)]
        found.append(
            Door(name=f"{receiver}.*", of=partial(_read_all, receiver, values), parameters={})
        )
        for name, member in members.items():
            if f"{receiver}.{name}" in FUNCTIONS or not _is_method(member):
                continue
            bound = getattr(make(world), name)
            found.append(
                Door(
                    name=f"{receiver}.{name}",
                    of=partial(_call, receiver, name),
                    parameters=_signature(bound),
                )
            )
    return {door.name: door for door in found}
