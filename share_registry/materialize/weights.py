"""dW added to the weights of a plain model, and the weights as they were put back, bit for bit.

The only place where a dense out x in matrix is formed, one module at a time. What is added cannot
be taken off again exactly in floating point, so the weights are kept.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import settings_of
from share_registry.exchange.scales import plain_path, scale_of
from share_registry.exchange.tensors import all_finite, check_held
from share_registry.format.layout import FactorSpec, Form

_MERGED_INTO: Final = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TRANSPOSED: Final = "Conv1D"
"""The class of transformers whose weight is (in, out)."""
_BY_PEFT: Final = "Load it with `Adapter.apply_to`, or swap it into a model that has it."


@dataclass(frozen=True, slots=True, kw_only=True)
class _WeightPlace:
    """The weight of a module and what is added to it.

    Scale * (b @ a), transposed where the weight is.
    """

    path: str
    weight: Tensor
    a: Tensor
    b: Tensor
    scale: float
    transposed: bool


def merge(model: Any, adapter: Adapter) -> list[tuple[Tensor, Tensor]]:
    """Add an adapter's scaled dW to a model's weights, in place.

    Return every weight with a copy of what it was.

    Raises:
        RefusedError: the adapter is more than dW of weights, or the model's weights cannot be added to
            or cannot hold the sum.
        InvalidInputError: the model does not have the modules. Nothing is changed.
    """
    if hasattr(model, "peft_config"):
        raise RefusedError(
            "the model is a PEFT model, expected the plain one.",
            hint="Use `swap` for an adapter that it has, or unload them first.",
        )
    _check_adapter(adapter)
    places = list(_places(model, adapter))
    changed: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for place in places:
                original, merged = place.weight.detach().clone(), _merged(place)
                place.weight.copy_(merged)
                changed.append((place.weight, original))
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
    more = [adapter.layout.tensors[position].key for position in adapter.layout.passengers]
    if more:
        raise RefusedError(
            f"the adapter has tensors that are no factors, such as {more[0]!r} ({len(more)} in all): they cannot be merged as dW.",
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


def _places(model: Any, adapter: Adapter) -> Iterator[_WeightPlace]:
    settings = settings_of(adapter.config)
    owners = Counter(
        id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False)
    )
    for factor in adapter.layout.factors:
        path = plain_path(factor.module)
        try:
            module = model.get_submodule(path)
        except AttributeError as error:
            raise InvalidInputError(
                f"the model has no module {path!r}, which the adapter has factors for.",
                hint="Give the base model it was trained on.",
            ) from error
        if owners[id(getattr(module, "weight", None))] > 1:
            raise RefusedError(
                f"the weight of {path!r} is another module's too: what is added to it would act there as well.",
                hint=_BY_PEFT,
            )
        a, b = (
            adapter.tensors[adapter.layout.tensors[position].key]
            for position in (factor.a, factor.b)
        )
        transposed = factor.form is Form.EMBEDDING or type(module).__name__ == _TRANSPOSED
        yield _WeightPlace(
            path=path,
            weight=_weight(module, path, factor, a, b, transposed),
            a=a,
            b=b,
            scale=scale_of(settings, factor.module),
            transposed=transposed,
        )


def _weight(
    module: Any, path: str, factor: FactorSpec, a: Tensor, b: Tensor, transposed: bool
) -> Tensor:
    weight = getattr(module, "weight", None)
    if (
        not isinstance(weight, Tensor)
        or weight.dtype not in _MERGED_INTO
        or getattr(module, "groups", 1) != 1
    ):
        raise RefusedError(
            f"module {path!r} ({type(module).__name__}) has no floating-point weight that dW can be added to.",
            hint=_BY_PEFT,
        )
    expected = (b.shape[0], *a.shape[1:]) if not transposed else (*a.shape[1:], b.shape[0])
    if tuple(weight.shape) != expected:
        raise InvalidInputError(
            f"module {path!r} has a weight of shape {tuple(weight.shape)}, the adapter ({factor.form}) expects {expected}.",
            hint="Give the base model it was trained on.",
        )
    return weight


def _merged(place: _WeightPlace) -> Tensor:
    """Return a weight with its change, in its element type.

    Raises RefusedError where that does not hold the sum.
    """
    kind = torch.float64 if place.weight.dtype == torch.float64 else torch.float32
    device = place.weight.device
    a, b = (factor.to(device, kind).flatten(1) for factor in (place.a, place.b))
    with (
        torch.autocast(device.type, enabled=False)
        if torch.amp.is_autocast_available(device.type)
        else nullcontext()
    ):  # else a caller's mode narrows it
        change = (b @ a).mul_(place.scale)
    change = change.T if place.transposed else change
    merged = change.reshape(place.weight.shape).add_(place.weight).to(place.weight.dtype)
    if all_finite(place.weight):
        check_held(place.path, merged)
    return merged
