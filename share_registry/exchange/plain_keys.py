"""Keys and module paths as PEFT gives them for the plain model, whatever it was wrapped in.

torch.compile, FSDP and activation checkpointing put a component of their own into every path below
them, data parallelism one before it, and PEFT its prefix once before all. A raw state dict has them
all as they were in training, and PEFT finds none of its tensors by such keys.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from share_registry.exchange.config import PREFIX, is_on_transformers
from share_registry.names import first_and_more

# Where a wrapper keeps the module that it wraps.
WRAPPERS: Final = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Where data parallelism and DeepSpeed do; a part of other models, too.
PARALLEL: Final = "module"
_INSIDE: Final = re.compile(rf"(?:{'|'.join(WRAPPERS)})\\*\.")
_BEFORE_PREFIX: Final = re.compile(rf"(?:{PARALLEL}\.)+(?={re.escape(PREFIX)})")
_FRONT: Final = re.compile(rf"(?:{re.escape(PREFIX)}|{PARALLEL}\.)+")
_SELECTING: Final = (
    "alpha_pattern",
    "exclude_modules",
    "modules_to_save",
    "rank_pattern",
    "target_modules",
    "target_parameters",
)


def plain_key(key: str, *, strip_front: bool) -> str:
    """Return a tensor's key without wrappers and with one prefix.

    Args:
        key: As in a file or a live model.
        strip_front: Whether `module` or PEFT's prefix in front of all else is a wrapper's, as it
            is around a model of transformers; elsewhere the model may have such a name of its own.
    """
    key = _BEFORE_PREFIX.sub("", _INSIDE.sub("", key)).removeprefix(PREFIX)
    front = _FRONT.match(key) if strip_front else None
    return PREFIX + (key[front.end() :] if front else key)


def path_in_model(module: str, *, key: str, strip_front: bool) -> str:
    """Return the path in the plain model of a module with a factor of some key."""
    prefix = PREFIX if key.startswith(PREFIX) else ""
    return plain_key(prefix + module, strip_front=strip_front).removeprefix(PREFIX)


def plain_config(config: Mapping[str, object]) -> dict[str, object]:
    """Return a config whose fields that name modules do so without wrappers."""
    return {
        name: json.loads(_INSIDE.sub("", json.dumps(value))) if name in _SELECTING else value
        for name, value in config.items()
    }


def key_remarks(config: Mapping[str, object], keys: Iterable[str]) -> list[str]:
    """Return what PEFT does not find by its key, or may not find."""
    on_transformers = is_on_transformers(config)
    plain = {key: plain_key(key, strip_front=bool(on_transformers)) for key in keys}
    strange = [key for key in plain if plain[key] != key]
    doubtful = [
        key for key in plain if on_transformers is None and _FRONT.match(plain[key], len(PREFIX))
    ]
    wrapped = next((key for key in strange if plain[key] != PREFIX + key), None)
    remark = (
        f"{first_and_more(strange, 3)}: without the prefix '{PREFIX}' PeftModel.from_pretrained"
        " does not load it (a model's own load_adapter may); the portable form has it."
    )
    if wrapped is not None:
        remark = (
            f"{first_and_more(strange, 3)}: the path in a wrapped model, by which"
            f" PeftModel.from_pretrained does not load it; the portable form has {plain[wrapped]}."
        )
    doubt = (
        f"{first_and_more(doubtful, 3)}: the path is taken for the base model's own; if it is a"
        " wrapper's, PeftModel.from_pretrained does not load it: give the config its auto_mapping."
    )
    return [*([remark] if strange else []), *([doubt] if doubtful else [])]
