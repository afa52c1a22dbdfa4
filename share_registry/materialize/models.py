"""Put an adapter into a model that is there.

`swap` copies its tensors over those of another adapter with the same modules: nothing is injected
and no parameter replaced. `merge` adds dW to the weights of a plain model, and `unmerge` puts them
back as they were, bit for bit. That is the only place where a dense out x in matrix is formed, one
module at a time. What is added cannot be taken off again exactly in floating point, so the weights
are kept.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import (
    DEFAULT_ALPHA,
    DEFAULT_RANK,
    PREFIX,
    copy_json,
)
from share_registry.exchange.normal_form import normal_form
from share_registry.exchange.peft_model import file_keys, live_name, live_tensors
from share_registry.exchange.selection import Role, layout_roles
from share_registry.exchange.tensors import all_finite, check_no_overflow
from share_registry.format.layout import FactorSpec, Form, Layout

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
_MERGED_INTO: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The class of transformers whose weight is (in, out).
_TRANSPOSED: Final = "Conv1D"
_BY_PEFT: Final = "Load it with `Adapter.apply_to`, or swap it into a model that has it."


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
    adapter, _ = normal_form(adapter)
    if seat is None or not seat.fits(name, adapter.layout):
        seat = _find_seat(model, name, adapter)
    _check_options(model, seat, adapter)
    roles = layout_roles(adapter.config, adapter.layout)
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
    for (layer, _), role in zip(seat.layers, roles, strict=True):
        layer.scaling[name] = role.scale
    for member, default in _SCALES.items():
        value = adapter.config.get(member)
        setattr(model.peft_config[name], member, copy_json(default if value is None else value))
    return seat


def merge(model: Any, adapter: Adapter) -> list[tuple[Tensor, Tensor]]:
    """Add an adapter's scaled dW to a model's weights, in place.

    Returns:
        Every weight with a copy of what it was, last first.

    Raises:
        RefusedError: the adapter is more than dW of weights, or the model's weights cannot be added
            to or cannot hold the sum.
        InvalidInputError: the model does not have the modules. Nothing is changed.
    """
    ensure(
        not hasattr(model, "peft_config"),
        RefusedError(
            "the model is a PEFT model, expected the plain one.",
            hint="Use `swap` for an adapter that it has, or unload them first.",
        ),
    )
    adapter, _ = normal_form(adapter)
    _check_adapter(adapter)
    owners = Counter(id(owned) for _, owned in model.named_parameters(remove_duplicate=False))
    roles = layout_roles(adapter.config, adapter.layout)
    modules = [
        _module(model, adapter, factor, role, owners)
        for factor, role in zip(adapter.layout.factors, roles, strict=True)
    ]
    changed: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for module, factor, role in zip(modules, adapter.layout.factors, roles, strict=True):
                original = module.weight.detach().clone()
                module.weight.copy_(_sum(module, adapter, factor, role))
                changed.append((module.weight, original))
    except BaseException:
        unmerge(changed[::-1])
        raise
    return changed[::-1]


def unmerge(originals: list[tuple[Tensor, Tensor]]) -> None:
    """Put the weights back that `merge` returned, in place."""
    with torch.no_grad():
        for weight, original in originals:
            weight.copy_(original)


def _find_seat(model: Any, name: str, adapter: Adapter) -> Seat:
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
    file_key = file_keys(model)
    modules = {file_key(path): module for path, module in model.named_modules()}
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
    ensure(
        not any((seat.name in getattr(layer, "merged_adapters", ()) for layer, _ in seat.layers)),
        RefusedError(
            f"adapter {seat.name!r} is merged into the model's weights.",
            hint="Call `model.unmerge_adapter()` first.",
        ),
    )


def _sort_collection(value: object) -> object:
    """Return a collection as a sorted list: a config from a file has lists, a live one sets."""
    return sorted(value, key=str) if isinstance(value, set | frozenset | list | tuple) else value


def _check_adapter(adapter: Adapter) -> None:
    more = list(adapter.passengers)
    if more:
        raise RefusedError(
            f"the adapter has tensors that are no factors, such as {more[0]!r}"
            f" ({len(more)} in all): they cannot be merged as dW.",
            hint=_BY_PEFT,
        )
    ensure(
        not adapter.config.get("alora_invocation_tokens"),
        RefusedError(
            "the adapter acts from its invocation tokens on: merged weights would act everywhere.",
            hint=_BY_PEFT,
        ),
    )
    ensure(
        not any(factor.form is Form.EXPERTS for factor in adapter.layout.factors),
        RefusedError(
            "the adapter has factors of experts' parameters, which are not merged here.",
            hint=_BY_PEFT,
        ),
    )


def _module(
    model: Any, adapter: Adapter, factor: FactorSpec, role: Role, owners: Mapping[int, int]
) -> Any:
    path = role.path
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise InvalidInputError(
            f"the model has no module {path!r}, which the adapter has factors for.",
            hint="Give the base model it was trained on.",
        ) from error
    weight = getattr(module, "weight", None)
    ensure(
        owners[id(weight)] <= 1,
        RefusedError(
            f"the weight of {path!r} is another module's too: what is added to it would act there"
            " as well.",
            hint=_BY_PEFT,
        ),
    )
    if (
        not isinstance(weight, Tensor)
        or weight.dtype not in _MERGED_INTO
        or getattr(module, "groups", 1) != 1
    ):
        raise RefusedError(
            f"module {path!r} ({type(module).__name__}) has no floating-point weight"
            " that dW can be added to.",
            hint=_BY_PEFT,
        )
    a, b = (adapter.layout.tensors[position].shape for position in (factor.a, factor.b))
    expected = (b[0], *a[1:])
    if _is_transposed(module, factor):
        expected = (*a[1:], b[0])
    ensure(
        tuple(weight.shape) == expected,
        InvalidInputError(
            f"module {path!r} has a weight of shape {tuple(weight.shape)},"
            f" the adapter ({factor.form}) expects {expected}.",
            hint="Give the base model it was trained on.",
        ),
    )
    return module


def _is_transposed(module: Any, factor: FactorSpec) -> bool:
    return factor.form is Form.EMBEDDING or type(module).__name__ == _TRANSPOSED


def _sum(module: Any, adapter: Adapter, factor: FactorSpec, role: Role) -> Tensor:
    """Return weight + scale * (b @ a) in the weight's element type, transposed where it is.

    Raises RefusedError where that does not hold the sum.
    """
    weight = module.weight
    kind = torch.float64 if weight.dtype == torch.float64 else torch.float32
    a, b = (
        adapter.tensors[adapter.layout.tensors[position].key].to(weight.device, kind).flatten(1)
        for position in (factor.a, factor.b)
    )
    device = weight.device.type
    # else a caller's mode narrows the product
    with (
        torch.autocast(device, enabled=False)
        if torch.amp.is_autocast_available(device)
        else nullcontext()
    ):
        change = (b @ a).mul_(role.scale)
    change = change.T if _is_transposed(module, factor) else change
    merged = change.reshape(weight.shape).add_(weight).to(weight.dtype)
    if all_finite(weight):
        check_no_overflow(role.path, merged)
    return merged
