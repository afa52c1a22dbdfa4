"""What ONNX Runtime GenAI 0.18 refuses or leaves out: its builder reads adapters through PEFT.

`adapter_path` of the model builder puts the pairs of linear layers into the graph, beside the base
model's weights, and everything that PEFT puts into these weights themselves. It builds models of
the classes that it knows by name; where an adapter does not name the class, its paths tell some.
"""

from typing import Final

from share_registry.exchange.base_model import Family
from share_registry.exchange.targets.subject import (
    ACTIVATED,
    ENCODER,
    GPT2_LAYER,
    SILENT_TASKS,
    ServerNote,
    Subject,
    applying,
    misread,
    refused,
)
from share_registry.format.layout import Form

# The classes of transformers, and of models with code of their own, that its builder knows.
BUILT: Final = frozenset(
    {
        *("ChatGLMForConditionalGeneration", "ChatGLMModel", "Ernie4_5ForCausalLM"),
        *("Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
        *("Gemma4ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"),
        *("GemmaForCausalLM", "GptOssForCausalLM", "GraniteForCausalLM"),
        *("GraniteMoeHybridForCausalLM", "HunYuanDenseV1ForCausalLM", "InternLM2ForCausalLM"),
        *("Lfm2AudioForConditionalGeneration", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM"),
        *("Lfm2VlForConditionalGeneration", "LlamaForCausalLM", "Mistral3ForConditionalGeneration"),
        *("MistralForCausalLM", "NemotronForCausalLM", "OlmoForCausalLM", "Phi3ForCausalLM"),
        *("Phi3SmallForCausalLM", "Phi3VForCausalLM", "Phi4MMForCausalLM", "PhiForCausalLM"),
        *("PhiMoEForCausalLM", "Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration"),
        *("Qwen3ForCausalLM", "Qwen3VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration"),
        *("Qwen3_5MoeForConditionalGeneration", "SmolLM3ForCausalLM"),
        *("VideoChatFlashQwenForCausalLM", "WhisperForConditionalGeneration"),
    }
)
_UNBUILT: Final = (Family.MIXTRAL, Family.QWEN2_MOE, Family.QWEN3_MOE)


def onnxruntime(subject: Subject) -> list[ServerNote]:
    """Return what ONNX Runtime GenAI makes of an adapter that its model builder was given."""
    config = subject.config
    keys = [tensor.key for tensor in subject.layout.tensors]
    unbuilt = _unbuilt(subject)
    has_experts = subject.has(Form.EXPERTS) or subject.experts
    return unbuilt + applying(
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
            refused("takes no factors of experts: it fails on those of LFM2 and GPT-OSS"): (
                has_experts and not unbuilt
            ),
            refused("fails on factors of lm_head"): any("lm_head.lora_" in key for key in keys),
        }
    )


def _unbuilt(subject: Subject) -> list[ServerNote]:
    """Return notes on a base model that its builder does not know."""
    config, name, family = subject.config, subject.base_class, subject.family
    return applying(
        {
            refused(f"builds no {name}"): name and name not in BUILT,
            refused(f"builds no models of the family {family}"): (not name and family in _UNBUILT),
            refused(
                "builds models that generate alone: no classifiers, no encoders such as BERT"
            ): config.get("task_type") in SILENT_TASKS or subject.has_module_in(ENCODER),
            refused(
                "builds no models with layers in transformer.h, such as GPT-2"
            ): subject.has_module_in(GPT2_LAYER),
        }
    )
