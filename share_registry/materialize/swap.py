"""Put an adapter's tensors into a PEFT model in place of another's with the same modules.

Nothing is injected and no parameter replaced.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import (
    DEFAULT_ALPHA,
    DEFAULT_RANK,
    PREFIX,
    copy_json,
    scale_of,
    settings_of,
)
from share_registry.exchange.peft_model import live_name, live_tensors
from share_registry.exchange.tensors import check_no_overflow
from share_registry.format.layout import FactorSpec, Layout

# Members of a config that change what an adapter does and stand in no tensor's shape.
_FUNCTION: Final = (
    "use_dora",
    "lora_bias",
    "fan_in_fan_out",
    "alora_invocation_tokens",
    "layer_replication",
    "trainable_token_indices",
    "modules_to_save",
)
# Members of a config that scales follow from, and what PEFT takes where one is left out.
_SCALES: Final[Mapping[str, object]] = {
    "r": DEFAULT_RANK,
    "lora_alpha": DEFAULT_ALPHA,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
_ANEW: Final = "Load it beside the other with `Adapter.apply_to(model, name)`."


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Where the tensors of one layout go in a model; finding that out takes longer than copying.

    Attributes:
        tensors: The model's parameters, by key.
        layers: The LoRA layer of every factor pair.
    """

    name: str
    layout: Layout
    tensors: Mapping[str, Tensor]
    layers: tuple[tuple[Any, FactorSpec], ...]

    def fits(self, name: str, layout: Layout) -> bool:
        """Tell whether this still is where an adapter goes; only plain LoRA layers can tell."""
        if (name, layout) != (self.name, self.layout) or layout.passengers:
            return False
        specs = layout.tensors
        return all(
            name in layer.lora_A
            and name in layer.lora_B
            and layer.lora_A[name].weight is self.tensors[specs[factor.a].key]
            and layer.lora_B[name].weight is self.tensors[specs[factor.b].key]
            for layer, factor in self.layers
        )


def swap(
    model: Any, adapter: Adapter, *, adapter_name: str | None = None, seat: Seat | None = None
) -> Seat:
    """Copy an adapter's tensors over those of a `peft.PeftModel`, and set its scales.

    Args:
        model: The model.
        adapter: The adapter.
        adapter_name: Which adapter of the model is replaced; may be left out where there is one,
            or one is active.
        seat: What an earlier call for the model returned.

    Returns:
        Where they went.

    Raises:
        InvalidInputError: the model has other modules, ranks or options there; nothing is changed.
        NotFoundError: the model has no adapter of the name.
        RefusedError: the adapter is merged into the weights, a value is more than the model's
            element type holds, or peft is not installed.
    """
    name = live_name(model, adapter_name)
    if seat is None or not seat.fits(name, adapter.layout):
        seat = _find_seat(model, name, adapter)
    _check_options(model, seat, adapter)
    settings = settings_of(adapter.config)
    with torch.no_grad():
        for key, tensor in adapter.tensors.items():
            there = seat.tensors[key].dtype
            if there != tensor.dtype and not (
                there.is_floating_point and tensor.is_floating_point()
            ):
                raise InvalidInputError(
                    f"tensor {key!r} is {there} in adapter {seat.name!r} of the model"
                    f" and {tensor.dtype} in this one.",
                    hint=_ANEW,
                )
            if there != tensor.dtype:
                check_no_overflow(key, tensor.to(there))
        for key, tensor in adapter.tensors.items():
            seat.tensors[key].copy_(tensor, non_blocking=True)
    for layer, factor in seat.layers:
        layer.scaling[name] = scale_of(settings, factor.module)
    for member, default in _SCALES.items():
        value = adapter.config.get(member)
        setattr(model.peft_config[name], member, copy_json(default if value is None else value))
    return seat


def _find_seat(model: Any, name: str, adapter: Adapter) -> Seat:
    """Find where the tensors go. Raises InvalidInputError."""
    live = live_tensors(model, name)
    shapes = {spec.key: tuple(spec.shape) for spec in adapter.layout.tensors}
    present = {key: tuple(tensor.shape) for key, tensor in live.items()}
    missing, others = sorted(shapes.keys() - present.keys()), sorted(present.keys() - shapes.keys())
    if missing or others:
        problem = f"has no place for {missing[0]!r}" if missing else f"has besides {others[0]!r}"
        raise InvalidInputError(
            f"adapter {name!r} of the model {problem}"
            f" ({len(missing)} tensors too few, {len(others)} too many).",
            hint=_ANEW,
        )
    wrong = next((key for key in shapes if shapes[key] != present[key]), None)
    if wrong is not None:
        raise InvalidInputError(
            f"tensor {wrong!r} is {present[wrong]} in adapter {name!r} of the model"
            f" and {shapes[wrong]} in this one.",
            hint=_ANEW,
        )
    modules = dict(model.named_modules())
    return Seat(
        name=name,
        layout=adapter.layout,
        tensors=live,
        layers=tuple(
            (modules[PREFIX + factor.module], factor) for factor in adapter.layout.factors
        ),
    )


def _check_options(model: Any, seat: Seat, adapter: Adapter) -> None:
    """Check what may change between two calls. Raises InvalidInputError or Refused."""
    for member in _FUNCTION:
        there = getattr(model.peft_config[seat.name], member, None)
        here = adapter.config.get(member)
        if (_sort_collection(there) or None) != (_sort_collection(here) or None):
            raise InvalidInputError(
                f"adapter {seat.name!r} of the model has {member} = {there!r},"
                f" this one has {here!r}.",
                hint=_ANEW,
            )
    if any(seat.name in getattr(layer, "merged_adapters", ()) for layer, _ in seat.layers):
        raise RefusedError(
            f"adapter {seat.name!r} is merged into the model's weights.",
            hint="Call `model.unmerge_adapter()` first.",
        )


def _sort_collection(value: object) -> object:
    """Return a collection as a sorted list: a config from a file has lists, a live one sets."""
    return sorted(value, key=str) if isinstance(value, set | frozenset | list | tuple) else value
