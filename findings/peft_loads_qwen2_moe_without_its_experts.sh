#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.23.0: an adapter of a mixture-of-experts model saved under
# transformers 4 has a pair for every expert; PEFT converts it to the fused parameters of today. For
# Qwen3-MoE it does, and the result is exact, but it warns that the two patterns which the conversion
# itself added "did not match any targeted module and were ignored". For Qwen2-MoE, with the same
# keys and the same config, it drops the experts and says nothing at all: the conversion is listed
# under the name "qwen2_moe", to which "qwen3_moe" is mapped, while "qwen2_moe" itself is not.
#
# Seen (distance of the logits from those of the weights merged by hand, factors of experts loaded,
# warnings on patterns or missing keys):
#   Qwen3-MoE 0, 4, 2 warnings; Qwen2-MoE .92, 0, none.
# So the right one warns and the wrong one is silent. Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install peft==0.21.2 transformers==5.23.0 safetensors
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import (
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

LAYER = "base_model.model.model.layers.0."
SIZES = {"gate_proj": (16, 24), "up_proj": (16, 24), "down_proj": (24, 16)}
TOKENS = torch.arange(12).reshape(2, 6)


def qwen(kind, config):
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
    )
    return kind(config(**sizes)).eval()


def adapter(folder, kind):
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    modules = {f"mlp.experts.{e}.{name}": size for e in range(4) for name, size in SIZES.items()}
    if kind is Qwen2MoeForCausalLM:
        modules |= {f"mlp.shared_expert.{name}": size for name, size in SIZES.items()}
    tensors = {}
    for module, (width, out) in modules.items():
        for side, shape in (("A", (4, width)), ("B", (out, 4))):
            drawn = torch.randn(shape, generator=generator) * 0.3
            tensors[f"{LAYER}{module}.lora_{side}.weight"] = drawn
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": list(SIZES),
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return tensors


def merge(model, tensors):
    def delta(module):
        a, b = (tensors[f"{LAYER}{module}.lora_{side}.weight"] for side in "AB")
        return 2 * b @ a

    mlp = model.model.layers[0].mlp
    with torch.no_grad():
        for e in range(4):
            gate, up, down = (delta(f"mlp.experts.{e}.{name}") for name in SIZES)
            mlp.experts.gate_up_proj[e].add_(torch.cat([gate, up]))
            mlp.experts.down_proj[e].add_(down)
        if hasattr(mlp, "shared_expert"):
            for name in SIZES:
                getattr(mlp.shared_expert, name).weight.add_(delta(f"mlp.shared_expert.{name}"))
    return model


def outcome(name, kind, config):
    folder = Path(sys.argv[1]) / name
    tensors = adapter(folder, kind)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(qwen(kind, config), str(folder)).eval()
    told = [w for w in caught if "did not match" in str(w.message) or "missing" in str(w.message)]
    with torch.no_grad():
        expected = merge(qwen(kind, config), tensors)(input_ids=TOKENS).logits
        distance = (model(input_ids=TOKENS).logits - expected).norm() / expected.norm()
        loaded = [key for key in get_peft_model_state_dict(model) if ".experts" in key]
    print(f"{name}: distance {distance:.2g}, {len(loaded)} factors, {len(told)} warnings")
    return float(distance), len(loaded), len(told)


right = outcome("Qwen3-MoE", Qwen3MoeForCausalLM, Qwen3MoeConfig)
wrong = outcome("Qwen2-MoE", Qwen2MoeForCausalLM, Qwen2MoeConfig)
sys.exit(not (right[0] < 1e-5 and right[1:] == (4, 2) and wrong[0] > 0.3 and wrong[1:] == (0, 0)))
PYTHON
