"""Refuse configs of adapters that are unsafe to take apart, and remark on what is odd in others."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.config import CONFIG_FILE, DEFAULT_ALPHA, DEFAULT_RANK, names_in

_SAFE_INITS: Final = {"gaussian", "eva", "orthogonal", "mica"}
# Initializations that rewrite the base model and that PEFT can subtract.
_SUBTRACTED_INITS: Final = ("pissa", "olora", "corda", "lora_ga")
# fmt: off
_FIELDS: Final = frozenset({
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "auto_mapping",
    "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "kasa_config",
    "layer_replication", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_bias", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "monteclora_config", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "target_parameters",
    "task_type", "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora",
    "velora_config",
})
# fmt: on
_CONVERT: Final = (
    "Convert it: load it with PEFT, peft.save_as_lora(directory, model, rank=0.9999), which takes"
    " the rank that this share of dW needs, then commit that directory."
)
# Field -> why what it sets is not taken apart, and what to do instead.
_REFUSED_FIELDS: Final = {
    "kasa_config": (
        "KaSA rewrites the base weight and puts a diagonal between A and B",
        "PEFT converts no KaSA adapter: train again without kasa_config.",
    ),
    "use_bdlora": (
        "BD-LoRA factors are block-diagonal and do not multiply to dW",
        "PEFT converts no BD-LoRA adapter: train again without use_bdlora.",
    ),
    "use_qalora": (
        "QALoRA's A acts on pooled inputs, so B @ A is not dW",
        _CONVERT,
    ),
    "arrow_config": (
        "Arrow routes between several adapters; one of them alone is not the function",
        "Commit the adapters that it routes between, each as its own task.",
    ),
    "megatron_config": (
        "Megatron adapters are not saved reliably",
        "Train again without megatron_config.",
    ),
}
_SUBTRACT: Final = (
    "Save it as plain LoRA: PEFT's save_pretrained with path_initial_model_for_weight_conversion,"
    " which subtracts the adapter as it was before training. Then commit that directory."
)
_REWRITTEN_BASE: Final = (
    "Save the base model that was rewritten (model.unload().save_pretrained); then set"
    " base_model_name_or_path to it and init_lora_weights to true in the config."
)
# Types whose every layer PEFT 0.21 converts.
# fmt: off
_CONVERTED_TYPES: Final = frozenset({
    "C3A", "DELORA", "FOURIERFT", "GRALORA", "LOHA", "LOKR", "MISS", "PSOFT", "RANDLORA",
    "TINYLORA", "UNILORA", "VBLORA", "VERA", "WAVEFT",
})
# fmt: on
_TORCHTUNE_FIELDS: Final = {
    "r",
    "lora_alpha",
    "target_modules",
    "peft_type",
    "base_model_name_or_path",
}
# What diffusers writes into a tensor file's header, and the fields of it that change dW.
_HEADER_CONFIG: Final = "lora_adapter_metadata"
_HEADER_FIELDS: Final = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
)


def refuse_unsafe(config: Mapping[str, object]) -> None:
    """Refuse adapters whose factors do not mean dW = s B A on the plain base model.

    Raises:
        InvalidInputError: not a PEFT config at all.
        RefusedError: a type, option or initialization that cannot be taken apart safely.
    """
    peft_type = config.get("peft_type")
    ensure(
        isinstance(peft_type, str),
        InvalidInputError(
            f"{CONFIG_FILE}: peft_type is {peft_type!r}, expected 'LORA'.",
            hint="Give a directory that PEFT's save_pretrained wrote.",
        ),
    )
    ensure(
        peft_type == "LORA",
        RefusedError(
            f"{CONFIG_FILE}: peft_type is {peft_type!r}, expected 'LORA'.",
            hint=_hint_for_type(str(peft_type)),
        ),
    )
    for field, (reason, hint) in _REFUSED_FIELDS.items():
        ensure(
            not config.get(field),
            RefusedError(f"{CONFIG_FILE}: {field} is set, expected none: {reason}.", hint=hint),
        )
    _refuse_initialization(config.get("init_lora_weights", True))
    library = _library(config)
    ensure(
        isinstance(library, str | None),
        RefusedError(
            f"{CONFIG_FILE}: auto_mapping.parent_library is {library!r}, expected the name of a"
            " module.",
            hint="Set auto_mapping to null in the config.",
        ),
    )


def is_foreign_library(config: Mapping[str, object]) -> bool:
    """Tell whether auto_mapping names a library other than transformers."""
    library = _library(config)
    return library is not None and str(library).partition(".")[0] != "transformers"


def header_remarks(config: Mapping[str, object], metadata: Sequence[tuple[str, str]]) -> list[str]:
    """Return where the config in a tensor file's header, as diffusers writes it, says another dW.

    A header's field may stand behind the name of the component of a pipeline that it is for.
    """
    try:
        header = json.loads(dict(metadata).get(_HEADER_CONFIG, "{}"))
    except (ValueError, RecursionError):
        return [f"{_HEADER_CONFIG} in the header of the tensor file is not valid JSON."]
    fields = header if isinstance(header, dict) else {}
    contradicted = [
        f"{name} {value!r}"
        for name, value in fields.items()
        if (field := name.rpartition(".")[2]) in _HEADER_FIELDS
        and (value or None) != (config.get(field) or None)
    ]
    return [
        f"{_HEADER_CONFIG} in the header of the tensor file says {listed}, {CONFIG_FILE} does not:"
        " the config counts, as in PEFT; diffusers reads the header."
        for listed in [", ".join(contradicted)[:200]]
        if contradicted
    ]


def config_remarks(config: Mapping[str, object]) -> list[str]:
    """Return what is worth knowing about a config that is accepted."""
    unknown = sorted(name for name, value in config.items() if value and name not in _FIELDS)
    listed = f"{', '.join(unknown[:8])}{' ...' if len(unknown) > 8 else ''}"
    remarks = {
        f"{CONFIG_FILE} has no r: PEFT's default {DEFAULT_RANK} was taken.": "r" not in config,
        f"{CONFIG_FILE} has no lora_alpha: PEFT's default {DEFAULT_ALPHA} was taken.": (
            "lora_alpha" not in config
        ),
        "lora_alpha is 0: the adapter changes nothing (llama.cpp would read it as unscaled).": (
            config.get("lora_alpha") == 0
        ),
        "Activated LoRA: it acts only after its invocation tokens, and must not be merged.": (
            config.get("alora_invocation_tokens")
        ),
        "layer_replication: layer numbers are those of the expanded model.": (
            config.get("layer_replication")
        ),
        "runtime_config is kept in the config bytes; PEFT ignores it.": "runtime_config" in config,
        f"auto_mapping names {str(_library(config))[:80]!r}, which PEFT's AutoPeftModel imports to"
        " load the adapter: kept in the config, null in the portable form.": (
            is_foreign_library(config)
        ),
        "the config has the fields that torchtune writes: if the base model is a Qwen2, its export"
        " has q_proj and k_proj in a wrong order, for every reader (merge it in torchtune).": (
            config.keys() <= _TORCHTUNE_FIELDS
            and not {"q_proj", "k_proj"}.isdisjoint(names_in(config, "target_modules"))
            and _may_be_qwen(str(config.get("base_model_name_or_path") or ""))
        ),
        f"unknown config fields, kept verbatim: {listed}.": unknown,
    }
    return [remark for remark, applies in remarks.items() if applies]


def _may_be_qwen(label: str) -> bool:
    return not label or "qwen" in label.lower()


def _hint_for_type(peft_type: str) -> str:
    if peft_type.upper() == "LORA":
        return "PEFT knows the type in capitals only: write 'LORA' into the config."
    if peft_type == "SHARE":
        return (
            "Load it (PeftModel.from_pretrained) and commit the model:"
            " then just its coefficients are stored."
        )
    if peft_type in _CONVERTED_TYPES:
        return _CONVERT
    return f"PEFT converts no {peft_type[:40]} adapter to LoRA: train a LoRA instead."


def _refuse_initialization(init: object) -> None:
    name = init.lower() if isinstance(init, str) else ""
    ensure(
        not name.startswith((*_SUBTRACTED_INITS, "loftq")),
        RefusedError(
            f"{CONFIG_FILE}: init_lora_weights is {init!r}, expected an initialization that leaves"
            " the base model alone: the factors are meant for rewritten base weights.",
            hint=_SUBTRACT if name.startswith(_SUBTRACTED_INITS) else _REWRITTEN_BASE,
        ),
    )
    ensure(
        (not name or name in _SAFE_INITS) and isinstance(init, bool | str | None),
        RefusedError(
            f"{CONFIG_FILE}: init_lora_weights is {init!r},"
            f" expected true, false, {', '.join(sorted(_SAFE_INITS))}.",
            hint="Where the initialization left the base model's weights as they were, set"
            " init_lora_weights to true in the config: it only acts before training.",
        ),
    )


def _library(config: Mapping[str, object]) -> object:
    mapping = config.get("auto_mapping")
    return mapping.get("parent_library") if isinstance(mapping, dict) else mapping
