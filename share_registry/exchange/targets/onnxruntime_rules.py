"""What ONNX Runtime GenAI 0.18 leaves out: its model builder reads the adapter through PEFT.

`adapter_path` of the builder puts the pairs of linear layers into the graph, beside the base
model's weights, and everything that PEFT puts into these weights themselves.
"""

from share_registry.exchange.targets.subject import (
    ACTIVATED,
    ServerNote,
    Subject,
    applying,
    misread,
    refused,
)
from share_registry.format.layout import Form


def onnxruntime(subject: Subject) -> list[ServerNote]:
    """Return what ONNX Runtime GenAI makes of an adapter that its model builder was given."""
    config = subject.config
    keys = [tensor.key for tensor in subject.layout.tensors]
    return applying(
        {
            misread(ACTIVATED): config.get("alora_invocation_tokens"),
            misread("leaves out the magnitudes of DoRA without a word"): config.get("use_dora"),
            misread("leaves out lora_bias without a word"): config.get("lora_bias"),
            misread("leaves out layer_replication without a word"): config.get("layer_replication"),
            misread("leaves out trainable_token_indices without a word"): (
                config.get("trainable_token_indices")
            ),
            misread("leaves out embedding factors without a word"): any(
                ".lora_embedding_" in key for key in keys
            ),
            misread("leaves out the experts without a word"): (
                subject.has(Form.EXPERTS) or subject.experts
            ),
            refused("fails on factors of lm_head"): any("lm_head.lora_" in key for key in keys),
        }
    )
