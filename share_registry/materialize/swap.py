"""An adapter's tensors put into a PEFT model in place of another's: the same modules, nothing injected, no parameter replaced."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInput, Refused
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import settings_of
from share_registry.exchange.live import live_tensors
from share_registry.exchange.scales import PREFIX, scale_of
from share_registry.format.layout import FactorSpec

_FUNCTION: Final = ("use_dora", "lora_bias", "fan_in_fan_out", "alora_invocation_tokens", "layer_replication", "trainable_token_indices", "modules_to_save")
"""Members of a config that change what an adapter does and stand in no tensor's shape."""
_SCALES: Final = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
_ANEW: Final = "Load it beside the other with `Adapter.apply_to(model, name)`."


def swap(model: Any, adapter: Adapter, *, adapter_name: str | None = None) -> str:
    """Copy an adapter's tensors over those that a `peft.PeftModel` has under a name, and set its scales; return the name.

    Raises:
        InvalidInput: the model has other modules, ranks or options there; nothing is changed.
        NotFound: the model has no adapter of the name.
        Refused: the adapter is merged into the weights, or peft is not installed.
    """
    name, live = live_tensors(model, adapter_name=adapter_name)
    layers = _check(model, name, live, adapter)
    settings = settings_of(adapter.config)
    with torch.no_grad():
        for key, tensor in adapter.tensors.items():
            live[key].copy_(tensor, non_blocking=True)
    for layer, factor in layers:
        layer.scaling[name] = scale_of(settings, factor.module)
    for member in _SCALES:
        if member in adapter.config:
            setattr(model.peft_config[name], member, adapter.config[member])
    return name


def _check(model: Any, name: str, live: Mapping[str, Tensor], adapter: Adapter) -> list[tuple[Any, FactorSpec]]:
    """Return the LoRA layer of every factor pair, once everything fits."""
    shapes = {spec.key: tuple(spec.shape) for spec in adapter.layout.tensors}
    present = {key: tuple(tensor.shape) for key, tensor in live.items()}
    missing, others = sorted(shapes.keys() - present.keys()), sorted(present.keys() - shapes.keys())
    if missing or others:
        what, key = ("has no place for", missing[0]) if missing else ("has besides", others[0])
        raise InvalidInput(f"adapter {name!r} of the model {what} {key!r} ({len(missing)} tensors too few, {len(others)} too many).", hint=_ANEW)
    wrong = next((key for key in shapes if shapes[key] != present[key]), None)
    if wrong is not None:
        raise InvalidInput(f"tensor {wrong!r} is {present[wrong]} in adapter {name!r} of the model and {shapes[wrong]} in this one.", hint=_ANEW)
    for member in _FUNCTION:
        there, here = getattr(model.peft_config[name], member, None), adapter.config.get(member)
        if (_plain(there) or None) != (_plain(here) or None):
            raise InvalidInput(f"adapter {name!r} of the model has {member} = {there!r}, this one has {here!r}.", hint=_ANEW)
    modules = dict(model.named_modules())
    layers = [(modules[PREFIX + factor.module], factor) for factor in adapter.layout.factors]
    if any(name in getattr(layer, "merged_adapters", ()) for layer, _ in layers):
        raise Refused(f"adapter {name!r} is merged into the model's weights.", hint="Call `model.unmerge_adapter()` first.")
    return layers


def _plain(value: object) -> object:
    """Return a collection as a sorted list: a config read from a file has lists where a live one has sets."""
    return sorted(value, key=str) if isinstance(value, set | frozenset | list | tuple) else value
