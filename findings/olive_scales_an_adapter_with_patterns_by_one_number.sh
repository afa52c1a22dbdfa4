#!/usr/bin/env bash
# olive-ai 0.13.0: `olive convert-adapters` makes an .onnx_adapter file of a PEFT adapter, with the
# scale multiplied into B. It computes rsLoRA's scale and refuses DoRA by name, but takes lora_alpha
# and r of the config for every module: alpha_pattern and rank_pattern are ignored without a warning.
#
# Seen (what B was multiplied with; what PEFT scales with):
#   rsLoRA: q_proj 3, v_proj 3 (3, 3)
#   alpha_pattern {q_proj: 32}: q_proj 1.5, v_proj 1.5 (8, 1.5)
#   rank_pattern {q_proj: 2}: q_proj 1.5, v_proj 1.5 (3, 1.5); DoRA is refused
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install olive-ai==0.13.0 onnxruntime==1.32.0 peft==0.21.2 \
    transformers==5.23.0 safetensors requests
HF_HUB_OFFLINE=1 OLIVE_DISABLE_TELEMETRY=1 HOME="$folder" "$folder/venv/bin/python" - "$folder" \
    <<'PYTHON'
import subprocess
import sys
from pathlib import Path

import onnxruntime
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

ROOT = Path(sys.argv[1])


def outcome(name, **options):
    """Return by module what its B was multiplied with, and what PEFT scales with."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=40, num_attention_heads=2, **sizes))
    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        **options,
    )
    model, file = get_peft_model(base, config), ROOT / f"{name}.onnx_adapter"
    model.save_pretrained(ROOT / name)
    command = [sys.executable, "-m", "olive", "convert-adapters", "-a", str(ROOT / name)]
    run = subprocess.run([*command, "-o", str(file)], capture_output=True, text=True, check=False)
    if "DoRA adapters are not supported" in run.stderr:
        print(f"{name}: refused")
        return None
    assert not run.returncode, run.stderr[-2000:]
    tensors = load_file(ROOT / name / "adapter_model.safetensors")
    written = onnxruntime.AdapterFormat.read_adapter(str(file)).get_parameters()
    scales = {}
    for module in ("q_proj", "v_proj"):
        key = f"model.layers.0.self_attn.{module}.lora_B.weight"
        factor = written[key].numpy() / tensors[f"base_model.model.{key}"].numpy().T
        layer = model.base_model.model.get_submodule(f"model.layers.0.self_attn.{module}")
        scales[module] = (round(float(factor.mean()), 4), layer.scaling["default"])
    print(f"{name}: {scales}")
    return scales


rs = outcome("rsLoRA", use_rslora=True)
alphas = outcome("alpha_pattern", alpha_pattern={"q_proj": 32})
ranks = outcome("rank_pattern", rank_pattern={"q_proj": 2})
dora = outcome("DoRA", use_dora=True)
right = rs is not None and all(ours == theirs for ours, theirs in rs.values())
one = all(
    found is not None and found["q_proj"][0] == 1.5 != found["q_proj"][1]
    for found in (alphas, ranks)
)
sys.exit(not (right and one and dora is None))
PYTHON
