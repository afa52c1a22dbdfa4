"""One function under two layouts of keys.

transformers 4 calls a module of a vision-language model `language_model.model.layers...` that 5
calls `model.language_model.layers...`, and PEFT renames an adapter's keys as it loads them. So both
name the same module.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final

from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import PREFIX
from share_registry.format.layout import Layout

# Beginnings of module paths in transformers 4, and what 5 has instead.
_RENAMED: Final = (
    (re.compile(r"language_model\.model\."), "model.language_model."),
    (re.compile(r"language_model\.lm_head(?=\.|$)"), "lm_head"),
    (re.compile(r"(?=(vision_tower|image_tower|visual|multi_modal_projector)\.)"), "model."),
)


def renamed_modules(modules: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Return the modules that others hold under their later names, with these names."""
    later = {module: _later_name(module) for module in modules}
    return {old: new for old, new in later.items() if new not in modules and new in others}


def rename_modules(adapter: Adapter, names: Mapping[str, str]) -> Adapter:
    """Return an adapter with some modules under other names, in its keys as well.

    Its config keeps the names that it has, so that it may select and scale them otherwise.
    """
    keys = {spec.key: _rename(spec.key, names) for spec in adapter.layout.tensors}
    factors = [
        factor.model_copy(update={"module": names.get(factor.module, factor.module)})
        for factor in adapter.layout.factors
    ]
    layout = Layout(
        metadata=adapter.layout.metadata,
        tensors=[
            spec.model_copy(update={"key": keys[spec.key]}) for spec in adapter.layout.tensors
        ],
        factors=sorted(factors, key=lambda factor: factor.module),
    )
    tensors = {keys[key]: tensor for key, tensor in adapter.tensors.items()}
    return replace(adapter, layout=layout, tensors=tensors)


def _later_name(module: str) -> str:
    for begin, replacement in _RENAMED:
        if begin.match(module):
            return begin.sub(replacement, module, count=1)
    return module


def _rename(key: str, names: Mapping[str, str]) -> str:
    path = key.removeprefix(PREFIX)
    end = path.find(".")
    while end >= 0:
        if (new := names.get(path[:end])) is not None:
            return f"{key[: len(key) - len(path)]}{new}{path[end:]}"
        end = path.find(".", end + 1)
    return key
