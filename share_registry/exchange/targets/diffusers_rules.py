"""What diffusers 0.42 reads wrongly of a directory of PEFT.

A model of a pipeline reads the tensor file alone, under the prefix of PEFT's keys, and takes every
scale for 1. The pipeline's own `load_lora_weights` looks for other prefixes, and loads nothing; an
export for diffusers is a file of another kind, which it reads.
"""

from share_registry.exchange.targets.subject import (
    ServerNote,
    Subject,
    applying,
    misread,
    setting,
)


def diffusers(subject: Subject) -> list[ServerNote]:
    """Return what a model of diffusers makes of an adapter's directory."""
    parts = sorted({module.removesuffix(path) for module, (_, path) in subject.parts.items()})
    prefixes = [f"base_model.model.{part}".removesuffix(".") for part in parts]
    return applying(
        {
            misread("reads the tensor file alone: without a word it leaves out the scale"): (
                subject.scales - {1.0}
            ),
            setting(
                "load it with load_lora_adapter(prefix="
                f"{' or '.join(map(repr, prefixes))}, use_safetensors=True) of the model it is of;"
                " load_lora_weights of its pipeline loads nothing of it"
            ): parts,
        }
    )
