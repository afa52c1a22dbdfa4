"""Stores of lorashare: components for each side of each layer, and loadings for each adapter.

A factor is the components times the adapter's loadings. Every adapter has its own config of PEFT,
and the heads that it came with.
"""

import json
from dataclasses import replace
from typing import Final

import torch

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import PREFIX
from share_registry.exchange.importers.contents import Contents, check_growth, which_part
from share_registry.exchange.peft_directory import adapter_of

LABEL: Final = "a store of lorashare"
_CONFIG: Final = "share_config.json"
_COMPONENTS: Final = "shared_components.safetensors"
_FOLDER: Final = "adapters"
_LOADINGS: Final = "loadings.safetensors"
_HEAD: Final = "classifier_head.safetensors"
_META: Final = "adapter_meta.json"
_SAVE_AGAIN: Final = "Save it again with lorashare: SHAREModel.from_pretrained, save_pretrained."


def matches_lorashare(contents: Contents) -> bool:
    """Tell whether the directory is such a store."""
    is_share = "share_version" in contents.json_of(_CONFIG)
    return is_share and _COMPONENTS in contents.files.sizes


def parts_of_lorashare(contents: Contents) -> list[str]:
    """Return the adapters of a store."""
    folder = contents.below(_FOLDER)
    if folder is None:
        return []
    inner = ((name, folder.below(name)) for name in sorted(folder.files.others))
    return [name for name, each in inner if each and _LOADINGS in each.files.sizes]


def read_lorashare(contents: Contents, part: str | None) -> Adapter:
    """Read one adapter. Raises InvalidInputError, RefusedError."""
    task = which_part(parts_of_lorashare(contents), part, contents, LABEL)
    folder = contents.below(_FOLDER)
    own = folder.below(task) if folder else None
    if own is None:
        raise InvalidInputError(f"{contents.source.location} has no {task}.", hint=_SAVE_AGAIN)
    config = own.json_of(_META).get("original_config")
    ensure(
        isinstance(config, dict) and config,
        RefusedError(
            f"{contents.source.location}: {task} has no original_config in {_META}: its alpha and"
            " targets are not known.",
            hint=_SAVE_AGAIN,
        ),
    )
    components, loadings = contents.load(_COMPONENTS).tensors, own.load(_LOADINGS).tensors
    tensors: dict[str, torch.Tensor] = {}
    for group, loading in sorted(loadings.items()):
        layer, _, side = group.rpartition(":")
        ensure(
            group in components
            and side in ("A", "B")
            and loading.dim() == components[group].dim() == 2
            and loading.shape[0] == components[group].shape[1],
            InvalidInputError(
                f"{contents.source.location}: {group!r} of {task} has no components.",
                hint=_SAVE_AGAIN,
            ),
        )
        check_growth(
            f"{group!r} of {task}",
            components[group].shape[0] * loading.shape[1],
            components[group].numel() + loading.numel(),
        )
        product = (components[group].double() @ loading.double()).to(loading.dtype)
        tensors[f"{PREFIX}{layer}.lora_{side}.weight"] = product.T if side == "A" else product
    if _HEAD in own.files.sizes:
        tensors |= own.load(_HEAD).tensors
    adapter = adapter_of(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        json.dumps(config, indent=2).encode(),
        source=contents.source_of(task),
    )
    remarks = (f"read as adapter {task} of {LABEL}, as it is projected there.", *adapter.remarks)
    return replace(adapter, remarks=remarks)
