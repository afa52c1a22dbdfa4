"""What LoRAX and TGI of 2026 read wrongly without an error."""

import re
from collections import defaultdict
from typing import Final

from share_registry.exchange.config import PREFIX
from share_registry.exchange.targets.subject import (
    ServerNote,
    Subject,
    applying,
    count_tensors,
    misread,
    refused,
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
    ignored = count_tensors(subject.passengers, " outside the factor pairs")
    return notes + applying(
        {
            misread(
                "drop every module type that some layer of the model lacks (layers_to_transform)"
            ): config.get("layers_to_transform") is not None,
            refused("do not find embedding factors"): subject.has(Form.EMBEDDING),
            misread(f"ignore {ignored}"): ignored,
        }
    )


def _types(layout: Layout) -> dict[str, list[tuple[str, int, int]]]:
    """Return the modules in numbered layers: type -> (path before the number, number, rank)."""
    types: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for factor in layout.factors:
        if match := _LAYER.fullmatch(factor.module.removeprefix(PREFIX)):
            rank = layout.tensors[factor.a].shape[0] // factor.experts
            types[match[3]].append((match[1], int(match[2]), rank))
    return types
