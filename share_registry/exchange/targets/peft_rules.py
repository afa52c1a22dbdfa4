"""What PEFT 0.21 itself reads wrongly, with transformers 5.23."""

from share_registry.exchange.base_model import Family
from share_registry.exchange.targets.subject import (
    EXPERT_NAMES,
    ServerNote,
    Subject,
    applying,
    misread,
    refused,
    setting,
)


def peft(subject: Subject) -> list[ServerNote]:
    """Return what PEFT makes of its own files, by how it is called."""
    experts = subject.experts.values()
    halves = any(len(names & {*pair[:2]}) == 1 for names in experts for pair in EXPERT_NAMES)
    return applying(
        {
            misread(
                "with transformers 5, use_rslora makes the experts' gate and up root 2 too large"
            ): subject.config.get("use_rslora") and experts,
            refused("with transformers 5, refuses experts that lack one of gate and up"): halves,
            misread(
                "with transformers 5, leaves out the experts of Qwen2-MoE without a word"
            ): subject.family is Family.QWEN2_MOE and experts,
            setting(
                "load it with PeftModel.from_pretrained: transformers' load_adapter loses the"
                " magnitudes of DoRA"
            ): subject.config.get("use_dora"),
        }
    )
