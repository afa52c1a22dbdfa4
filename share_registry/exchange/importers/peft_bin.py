"""Adapters of PEFT that were saved as a pickle, `adapter_model.bin`; only where that is asked for.

torch reads tensors alone (`weights_only`) and calls nothing else that a pickle names.
"""

import io
from dataclasses import replace
from typing import Any, Final

import torch

from share_registry.errors import InvalidInputError, NotFoundError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.adapter_files import MAX_TENSOR_FILE_BYTES
from share_registry.exchange.config import CONFIG_FILE, MAX_CONFIG_BYTES, parse_config
from share_registry.exchange.config_checks import refuse_unsafe
from share_registry.exchange.importers.contents import Contents, check_growth
from share_registry.exchange.peft_directory import adapter_of

LABEL: Final = "an adapter of PEFT in a pickle"
_FILE: Final = "adapter_model.bin"


def never(_: Contents) -> bool:
    """Tell that no content is of this format: it is read where it is asked for."""
    return False


def read_peft_bin(contents: Contents, _: str | None) -> Adapter:
    """Read an adapter. Raises InvalidInputError, NotFoundError, RefusedError."""
    for name in (CONFIG_FILE, _FILE):
        ensure(
            name in contents.files.sizes,
            NotFoundError(
                f"{contents.source.location} has no {name}.",
                hint="Give the directory that PEFT's save_pretrained wrote.",
            ),
        )
    config_bytes = contents.files.read(CONFIG_FILE, MAX_CONFIG_BYTES)
    refuse_unsafe(parse_config(config_bytes))
    content = contents.files.read(_FILE, MAX_TENSOR_FILE_BYTES)
    tensors = _load(content)
    attachments, left = contents.attached([_FILE])
    adapter = adapter_of(
        {key: tensor.contiguous() for key, tensor in tensors.items()},
        config_bytes,
        attachments=attachments,
        source=contents.source,
    )
    remarks = (f"read as {LABEL}, by torch.load(weights_only=True).", *left, *adapter.remarks)
    return replace(adapter, remarks=remarks)


def _load(content: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors in a pickle of torch. Raises InvalidInputError, RefusedError."""
    try:
        value: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    # whatever a pickle that is none, or that names more than tensors, makes torch raise
    except Exception as error:
        raise RefusedError(
            f"{_FILE} is no pickle of tensors alone: {str(error).splitlines()[0][:200]}",
            hint="Do not open it otherwise. Ask who made it for safetensors.",
        ) from error
    is_mapping = isinstance(value, dict) and all(
        isinstance(key, str) and _is_plain(tensor) for key, tensor in value.items()
    )
    ensure(
        is_mapping,
        InvalidInputError(
            f"{_FILE} holds a {type(value).__name__}, expected dense tensors by their keys.",
            hint="Save the adapter again with PEFT's save_pretrained.",
        ),
    )
    # a view may repeat one value as often as it likes
    check_growth(_FILE, sum(tensor.numel() for tensor in value.values()), len(content))
    # tensors of a pickle may be views of one storage
    return {key: tensor.detach().clone() for key, tensor in value.items()}


def _is_plain(value: object) -> bool:
    """Tell whether a value is a tensor whose elements lie in memory."""
    if not isinstance(value, torch.Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout is torch.strided and value.device.type == "cpu"
