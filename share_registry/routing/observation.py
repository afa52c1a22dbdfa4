"""What enters the modules of a base model while it reads a batch."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from share_registry import kinds
from share_registry.errors import InvalidInputError, ensure
from share_registry.kinds import member_of, shown

_MASK: Final = "attention_mask"
_check_model: Final = kinds.of(nn.Module, "a torch module", "Give the model itself.")


def observe(
    model: Any, widths: Mapping[str, int], inputs: Mapping[str, Any]
) -> list[dict[str, Tensor]]:
    """Run a base model once, without gradients, and return what enters its modules.

    Args:
        model: The base model, in evaluation mode.
        widths: Module -> in.
        inputs: What the model is called with. Positions that `attention_mask` (batch, tokens) has 0
            at are left out.

    Returns:
        Per row of the batch: module -> (tokens, in), of the modules that the model called.

    Raises:
        InvalidInputError: the model lacks a module, trains, or has an adapter that is active; or
            what enters a module cannot be told apart by rows.
    """
    base = _base_of(_check_model("model", model))
    modules = _modules(base, widths)
    batch, positions, mask = _extent(inputs)
    calls: dict[str, list[Tensor]] = {name: [] for name in widths}
    with ExitStack() as hooks, torch.no_grad():
        for name, module in modules.items():
            hook = partial(_keep, calls[name])
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        base(**inputs)
    rows: list[dict[str, Tensor]] = [{} for _ in range(batch)]
    for name, entered in calls.items():
        if not entered:
            continue
        parts = [list(_by_row(name, x, widths[name], batch, positions, mask)) for x in entered]
        for row, pieces in zip(rows, zip(*parts, strict=True), strict=True):
            row[name] = torch.cat(pieces)
    return rows


def _base_of(model: nn.Module) -> nn.Module:
    """Return the model whose modules have the names that adapters give them."""
    ensure(
        not model.training,
        InvalidInputError(
            "the model is in training mode, in which dropout changes what enters its modules.",
            hint="Call model.eval() first.",
        ),
    )
    active = [
        name
        for name, module in model.named_modules()
        if member_of(module, "disable_adapters") is False and member_of(module, "active_adapters")
    ]
    ensure(
        not active,
        InvalidInputError(
            f"the model has an adapter active at {active[0] if active else ''!r}, expected the "
            "base model alone.",
            hint="Observe it within `with model.disable_adapter():`, or before PEFT wraps it.",
        ),
    )
    inner = member_of(model, "get_base_model")
    return inner() if callable(inner) and member_of(model, "peft_config") else model


def _modules(model: nn.Module, widths: Mapping[str, int]) -> dict[str, nn.Module]:
    by_name = dict(model.named_modules())
    missing = [name for name in widths if name not in by_name]
    if not missing:
        return {name: by_name[name] for name in widths}
    ending = f".{missing[0]}"
    below = next((name.removesuffix(ending) for name in by_name if name.endswith(ending)), None)
    raise InvalidInputError(
        f"the model {type(model).__name__} has no module {missing[0]!r}; {len(missing)} of "
        f"{len(widths)} modules are missing.",
        hint="Give the base model that the tasks are adapters of, or make an index of the modules "
        "that it has, by modules=..."
        if below is None
        else f"It has it below {below!r}: give model.get_submodule({below!r}).",
    )


def _extent(inputs: Mapping[str, Any]) -> tuple[int, int, Tensor | None]:
    """Return how many rows and positions inputs have, and their mask (batch, tokens) of bool."""
    mask = inputs.get(_MASK)
    if isinstance(mask, Tensor):
        ensure(
            mask.dim() == 2,
            InvalidInputError(
                f"{_MASK} has the shape {list(mask.shape)}, expected (batch, tokens).",
                hint="Give the mask that the tokenizer returns.",
            ),
        )
        return mask.shape[0], mask.shape[1], mask.bool()
    tensors = [x for x in inputs.values() if isinstance(x, Tensor) and x.dim() > 0]
    ensure(
        tensors,
        InvalidInputError(
            f"the inputs {shown(sorted(inputs))} hold no tensor.",
            hint="Give what the model is called with: observe(model, input_ids=..., "
            "attention_mask=...).",
        ),
    )
    shape = tensors[0].shape
    return shape[0], shape[1] if len(shape) > 1 else 1, None


def _keep(
    calls: list[Tensor], _: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> None:
    """Keep the first tensor that a module is called with."""
    x = next((x for x in (*arguments, *named.values()) if isinstance(x, Tensor)), None)
    if x is not None:
        calls.append(x.detach())


def _by_row(
    name: str, x: Tensor, width: int, batch: int, positions: int, mask: Tensor | None
) -> Iterator[Tensor]:
    """Yield (tokens, in) of every row, padding left out. Raises InvalidInputError."""
    is_flat = x.dim() == 2 and x.shape[0] in (batch, batch * positions)
    is_batch = x.dim() > 2 and x.shape[0] == batch
    ensure(
        (is_flat or is_batch) and x.shape[-1] == width,
        InvalidInputError(
            f"what enters {name} has the shape {list(x.shape)}, expected ({batch}, tokens, "
            f"{width}).",
            hint="Give the base model that the tasks are adapters of, or make an index without "
            "this module, by modules=...",
        ),
    )
    x = x.reshape(batch, -1, width)
    if mask is None or x.shape[1] == 1 or bool(mask.all()):
        yield from x
        return
    ensure(
        x.shape[1] == mask.shape[1],
        InvalidInputError(
            f"{x.shape[1]} positions enter {name}, {_MASK} has {mask.shape[1]}.",
            hint="Give rows of one length, without padding, or make an index without this module, "
            "by modules=...",
        ),
    )
    for row, present in zip(x, mask.to(x.device), strict=True):
        yield row[present]
