"""Keys and module paths as PEFT gives them for the plain model, whatever it was wrapped in.

torch.compile, FSDP and activation checkpointing put a component of their own into every path below
them, data parallelism one before it, and PEFT its prefix once before all. A raw state dict has them
all as they were in training, and PEFT finds none of its tensors by such keys.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from share_registry.exchange.config import PREFIX

# Where a wrapper keeps the module that it wraps.
WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Where data parallelism and DeepSpeed do; a part of other models, too, so it counts in front alone.
PARALLEL: Final = "module"
_INSIDE: Final = re.compile(rf"(?:{'|'.join(WRAPPERS)})\\*\.")
_FRONT: Final = re.compile(rf"(?:{re.escape(PREFIX)}|{PARALLEL}\.)+")
_SELECTING: Final = (
    "alpha_pattern",
    "exclude_modules",
    "modules_to_save",
    "rank_pattern",
    "target_modules",
    "target_parameters",
)


def plain_key(key: str) -> str:
    """Return a tensor's key without wrappers and with one prefix."""
    return PREFIX + _FRONT.sub("", PREFIX + _INSIDE.sub("", key), count=1)


def plain_config(config: Mapping[str, object]) -> dict[str, object]:
    """Return a config whose fields that name modules do so without wrappers."""
    return {
        name: json.loads(_INSIDE.sub("", json.dumps(value))) if name in _SELECTING else value
        for name, value in config.items()
    }


def key_remarks(keys: Iterable[str]) -> list[str]:
    """Return what PEFT does not find by its key."""
    strange = [key for key in keys if plain_key(key) != key]
    more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
    listed = f"{', '.join(strange[:3])}{more}"
    wrapped = next((key for key in strange if plain_key(key) != PREFIX + key), None)
    remark = (
        f"{listed}: without the prefix '{PREFIX}' PeftModel.from_pretrained does not load it (a"
        " model's own load_adapter may); the portable form has it."
    )
    if wrapped is not None:
        remark = (
            f"{listed}: the path in a wrapped model, by which PeftModel.from_pretrained does not"
            f" load it; the portable form has {plain_key(wrapped)}."
        )
    return [remark] if strange else []
