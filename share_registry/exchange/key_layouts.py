"""One function under two layouts of keys.

transformers 4 calls a module of a vision-language model `language_model.model.layers...` that 5
calls `model.language_model.layers...`, and one of a CLIP text encoder `text_model.encoder...` that
5 calls `encoder...`. PEFT renames an adapter's keys as it loads some of them. So both name the same
module.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    (re.compile(r"(model\.)?vision_tower\.vision_model\."), "model.vision_tower."),
    (
        re.compile(
            r"(?P<part>(text_encoder(_\d)?\.)?)text_model\.(?=(encoder|embeddings|final_layer_norm)\.)"
        ),
        r"\g<part>",
    ),
)

# Beginnings that a module has in either of two layouts.
_EITHER: Final = re.compile(
    r"(model\.)?(language_model|vision_tower|image_tower|visual|multi_modal_projector)\."
    r"|(text_encoder(_\d)?\.)?(text_model|encoder|embeddings|final_layer_norm)\."
)


def may_have_another_name(modules: Iterable[str]) -> bool:
    """Tell whether some modules are of a kind that is called otherwise in another layout."""
    return any(map(_EITHER.match, modules))


def renamed_modules(modules: Collection[str], others: Collection[str]) -> dict[str, str]:
    """Return the modules that others hold under their later names, with these names."""
    return {
        old: new
        for old in modules
        for new in _later_names(old)
        if new not in modules and new in others
    }


def layout_remarks(modules: Collection[str], others: Collection[str]) -> list[str]:
    """Return what is worth saying of modules that others hold under other names.

    Args:
        modules: Those of an adapter.
        others: Those that the adapter's space has.
    """
    later = renamed_modules(modules, others)
    earlier = {new: old for old, new in renamed_modules(others, modules).items()}
    pairs = sorted((later | earlier).items())
    return [
        f"{len(pairs)} modules have another name in the space, such as {old}, there {new}: those of"
        " one base model before and since transformers 5. Each version keeps its own; merging takes"
        " them for the same."
        for old, new in pairs[:1]
    ]


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


def _later_names(module: str) -> Iterator[str]:
    for begin, replacement in _RENAMED:
        if begin.match(module):
            yield begin.sub(replacement, module, count=1)


def _rename(key: str, names: Mapping[str, str]) -> str:
    path = key.removeprefix(PREFIX)
    end = path.find(".")
    while end >= 0:
        if (new := names.get(path[:end])) is not None:
            return f"{key[: len(key) - len(path)]}{new}{path[end:]}"
        end = path.find(".", end + 1)
    return key
