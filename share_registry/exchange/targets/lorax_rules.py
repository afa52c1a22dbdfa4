"""What LoRAX of May 2026, and TGI, read wrongly without an error.

They stack a type of module over all layers of the model, and leave out a type that a layer lacks.
How many layers the model has stands in no adapter; that it has more than one is taken for granted.
"""

import re
from collections import defaultdict
from collections.abc import Collection
from typing import Final

from share_registry.exchange.config import PREFIX
from share_registry.exchange.targets.subject import (
    COPY,
    ENCODER,
    GPT2_LAYER,
    TRAINING_ONLY,
    ServerNote,
    Subject,
    applying,
    count_tensors,
    misread,
    refused,
    setting,
)
from share_registry.format.layout import Form, Layout

_LAYER: Final = re.compile(r"(.*?\.)(\d+)\.(.+)")


def lorax(subject: Subject) -> list[ServerNote]:
    """Return what LoRAX and TGI make of an adapter."""
    config, layout = subject.config, subject.layout
    notes = applying(
        {
            misread("ignore rank_pattern, so scales are wrong"): config.get("rank_pattern"),
            misread("ignore alpha_pattern, so scales are wrong"): config.get("alpha_pattern"),
            misread("read activated LoRA as plain LoRA"): config.get("alora_invocation_tokens"),
            misread("ignore layer_replication"): config.get("layer_replication"),
        }
    )
    types = _types(layout)
    layers = {(prefix, layer) for modules in types.values() for prefix, layer, _ in modules}
    for name, modules in sorted(types.items()):
        prefixes = {prefix for prefix, _, _ in modules}
        if len(modules) < sum(prefix in prefixes for prefix, _ in layers):
            notes.append(misread(f"drop {name}: not every adapted layer has it"))
        if len({rank for _, _, rank in modules}) > 1:
            notes.append(refused(f"cannot stack {name}: its ranks differ"))
    lost = [
        key
        for key in subject.passengers
        if not (COPY.fullmatch(key) or TRAINING_ONLY.fullmatch(key))
    ]
    return notes + applying(
        {
            refused(
                "take no adapters of encoders such as BERT (of XLM-RoBERTa, paths have to begin"
                " with roberta.)"
            ): subject.has_module_in(ENCODER),
            # LoRAX reads pairs there, TGI knows none but those in model.layers
            setting("TGI drops modules in transformer.h without a word"): (
                subject.has_module_in(GPT2_LAYER)
            ),
            misread("drop every module type: not every layer of the model is adapted"): (
                config.get("layers_to_transform") is not None or _lacks_layers(layers)
            ),
            misread("leave out experts without a word"): (
                subject.has(Form.EXPERTS) or subject.experts
            ),
            misread("leave out embedding factors without a word"): subject.has(Form.EMBEDDING),
            misread(f"ignore {count_tensors(lost, ' outside the factor pairs')}"): lost,
        }
    )


def _lacks_layers(layers: Collection[tuple[str, int]]) -> bool:
    """Tell whether some layers of the model are certainly not adapted."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for prefix, layer in layers:
        numbers[prefix].add(layer)
    return any(len(each) == 1 or each != {*range(max(each) + 1)} for each in numbers.values())


def _types(layout: Layout) -> dict[str, list[tuple[str, int, int]]]:
    """Return the modules in numbered layers: type -> (path before the number, number, rank)."""
    types: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for factor in layout.factors:
        if match := _LAYER.fullmatch(factor.module.removeprefix(PREFIX)):
            rank = layout.tensors[factor.a].shape[0] // factor.experts
            types[match[3]].append((match[1], int(match[2]), rank))
    return types
