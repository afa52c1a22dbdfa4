"""Name the format of files that are no PEFT adapter by what they are called, and the next step.

These are files whose content is not looked into: pickles, pointers, parts of an adapter or a model.
What content tells is named in `importers/refused.py`.
"""

import re
from collections.abc import Iterable
from typing import Final

_DIFFUSERS: Final = (
    "Save it as safetensors where you trust it: pipeline.load_lora_weights, then"
    " pipeline.save_lora_weights; such a file is read."
)
_MLX: Final = (
    "Give the directory that mlx_lm.lora wrote, with adapters.safetensors and its"
    " adapter_config.json; an .npz is saved anew with mlx.core.load and save_safetensors."
)
_RETRAIN: Final = "It has no form that PEFT loads: train the adapter with PEFT."
# What a file is called -> whose format that is, and the next step; the first that matches counts.
_FORMATS: Final[tuple[tuple[re.Pattern[str], str, str], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), label, hint)
    for pattern, label, hint in (
        (
            r"adapter_(model|config)\..*\.dvc",
            "a DVC pointer",
            "Run `dvc pull` there, then commit it again.",
        ),
        (r"pytorch_lora_weights\.(safetensors|bin)", "a LoRA of diffusers", _DIFFUSERS),
        (
            r"(\d+_)?adapters\.(safetensors|npz)",
            "an adapter of MLX",
            _MLX,
        ),
        (
            r"pytorch_adapter\.bin|(adapter|model_head)\.safetensors|head_config\.json",
            "an adapter of the AdapterHub library",
            _RETRAIN,
        ),
        (
            r"(model|pytorch_model)([-.].*)?\.(safetensors|bin|index\.json)",
            "a whole model",
            "Commit the directory of its adapter; a merged model cannot be taken apart.",
        ),
    )
)


def name_format(names: Iterable[str]) -> tuple[str, str, str] | None:
    """Return the file that shows another program's format, what it is, and the next step."""
    ordered = sorted(names)
    return next(
        (
            (name, label, hint)
            for pattern, label, hint in _FORMATS
            for name in ordered
            if pattern.fullmatch(name)
        ),
        None,
    )
