"""What OpenVINO GenAI 2026.4 reads wrongly: it reads the tensor file alone, never the config.

Pairs of a module that the graph of the base model does not have are left out without a word.
"""

import re
from collections.abc import Collection
from typing import Final

from share_registry.exchange.targets.subject import (
    ACTIVATED,
    COPY,
    ENCODER,
    SILENT_TASKS,
    TRAINING_ONLY,
    ServerNote,
    Subject,
    applying,
    count_tensors,
    misread,
    refused,
)
from share_registry.format.layout import Form

# Weights that it puts in place of the base model's.
_REPLACED: Final = re.compile(r"(^|.*\.)(embed_tokens|lm_head)\.weight")


def openvino(subject: Subject) -> list[ServerNote]:
    """Return what OpenVINO GenAI makes of an adapter."""
    config = subject.config
    harmless = (COPY, TRAINING_ONLY, _REPLACED)
    lost = [key for key in subject.passengers if not any(kind.fullmatch(key) for kind in harmless)]
    scales = subject.scales
    return applying(
        {
            refused("takes adapters in pipelines that generate alone"): (
                config.get("task_type") in SILENT_TASKS or subject.has_module_in(ENCODER)
            ),
            misread(ACTIVATED): config.get("alora_invocation_tokens"),
            misread("ignores layer_replication"): config.get("layer_replication"),
            misread(
                "reads the tensor file alone: without a word it leaves out the scale, "
                f"{_scale_text(scales)}"
            ): scales - {1.0},
            misread("leaves out embedding factors without a word"): subject.has(Form.EMBEDDING),
            misread("leaves out experts that have a pair each without a word"): subject.experts,
            refused("fails on fused experts"): subject.has(Form.EXPERTS),
            misread(f"ignores {count_tensors(lost)}"): lost,
        }
    )


def _scale_text(scales: Collection[float]) -> str:
    if len(scales) == 1:
        return f"which has to be given as alpha={next(iter(scales)):g}"
    return "which differs from module to module"
