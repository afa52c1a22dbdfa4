"""Add dW to the weights of a plain model, and put the weights back as they were, bit for bit.

The only place where a dense out x in matrix is formed, one module at a time. What is added cannot
be taken off again exactly in floating point, so the weights are kept.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import plain_path, scale_of, settings_of
from share_registry.exchange.tensors import all_finite, check_no_overflow
from share_registry.format.layout import FactorSpec, Form

_MERGED_INTO: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# The class of transformers whose weight is (in, out).
_TRANSPOSED: Final = "Conv1D"
_BY_PEFT: Final = "Load it with `Adapter.apply_to`, or swap it into a model that has it."


def merge(model: Any, adapter: Adapter) -> list[tuple[Tensor, Tensor]]:
    """Add an adapter's scaled dW to a model's weights, in place.

    Returns:
        Every weight with a copy of what it was, last first.

    Raises:
        RefusedError: the adapter is more than dW of weights, or the model's weights cannot be added
            to or cannot hold the sum.
        InvalidInputError: the model does not have the modules. Nothing is changed.
    """
    if hasattr(model, "peft_config"):
        raise RefusedError(
            "the model is a PEFT model, expected the plain one.",
            hint="Use `swap` for an adapter that it has, or unload them first.",
        )
    _check_adapter(adapter)
    owners = Counter(id(owned) for _, owned in model.named_parameters(remove_duplicate=False))
    settings = settings_of(adapter.config)
    modules = [_module(model, adapter, factor, owners) for factor in adapter.layout.factors]
    changed: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for module, factor in zip(modules, adapter.layout.factors, strict=True):
                original = module.weight.detach().clone()
                module.weight.copy_(
                    _sum(module, adapter, factor, scale_of(settings, factor.module))
                )
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


def _check_adapter(adapter: Adapter) -> None:
    more = list(adapter.passengers)
    if more:
        raise RefusedError(
            f"the adapter has tensors that are no factors, such as {more[0]!r}"
            f" ({len(more)} in all): they cannot be merged as dW.",
            hint=_BY_PEFT,
        )
    if adapter.config.get("alora_invocation_tokens"):
        raise RefusedError(
            "the adapter acts from its invocation tokens on: merged weights would act everywhere.",
            hint=_BY_PEFT,
        )
    if any(factor.form is Form.EXPERTS for factor in adapter.layout.factors):
        raise RefusedError(
            "the adapter has factors of experts' parameters, which are not merged here.",
            hint=_BY_PEFT,
        )


def _module(model: Any, adapter: Adapter, factor: FactorSpec, owners: Mapping[int, int]) -> Any:
    """Return the module of a factor pair, whose weight the pair can be added to."""
    path = plain_path(factor.module)
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise InvalidInputError(
            f"the model has no module {path!r}, which the adapter has factors for.",
            hint="Give the base model it was trained on.",
        ) from error
    weight = getattr(module, "weight", None)
    if owners[id(weight)] > 1:
        raise RefusedError(
            f"the weight of {path!r} is another module's too: what is added to it would act there"
            " as well.",
            hint=_BY_PEFT,
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
    if tuple(weight.shape) != expected:
        raise InvalidInputError(
            f"module {path!r} has a weight of shape {tuple(weight.shape)},"
            f" the adapter ({factor.form}) expects {expected}.",
            hint="Give the base model it was trained on.",
        )
    return module


def _is_transposed(module: Any, factor: FactorSpec) -> bool:
    return factor.form is Form.EMBEDDING or type(module).__name__ == _TRANSPOSED


def _sum(module: Any, adapter: Adapter, factor: FactorSpec, scale: float) -> Tensor:
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
        change = (b @ a).mul_(scale)
    change = change.T if _is_transposed(module, factor) else change
    merged = change.reshape(weight.shape).add_(weight).to(weight.dtype)
    if all_finite(weight):
        check_no_overflow(plain_path(factor.module), merged)
    return merged
