#!/usr/bin/env bash
# llama.cpp's convert_lora_to_gguf.py (of commit 0c1e5709, in llama-cpp-python 0.3.36) knows GPT-2: it
# ends with code 0 and a file for a LoRA that PEFT trained on its Conv1D modules. But it transposes the
# factors as it does the weights of Conv1D, which are stored (in, out), while PEFT's A and B are
# (r, in) and (out, r) for these modules too. What it writes is dW transposed: of modules that are not
# square a tensor that llama.cpp refuses to load, of square ones (attn.c_proj) another function.
#
# Seen (module: shape of the base's tensor, of the LoRA's product; distance from dW, from its transpose):
#   attn_qkv: (48, 16) and (16, 48)
#   attn_output: (16, 16) and (16, 16); 1.4 and 0.0
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install peft==0.21.2 transformers==5.23.0 safetensors pyyaml
"$folder/venv/bin/pip" -q download llama-cpp-python==0.3.36 --no-deps \
    --no-binary llama-cpp-python -d "$folder"
tar -xzf "$folder"/llama_cpp_python-0.3.36.tar.gz -C "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(sys.argv[1])
SOURCES = ROOT / "llama_cpp_python-0.3.36" / "vendor" / "llama.cpp"
sys.path.insert(0, str(SOURCES / "gguf-py"))

import gguf
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
model = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2))
model.save_pretrained(ROOT / "base")
config = ROOT / "base" / "config.json"
config.write_text(json.dumps(json.loads(config.read_text()) | {"n_ctx": 16}))
options = LoraConfig(r=4, lora_alpha=4, target_modules=["c_attn", "attn.c_proj"], fan_in_fan_out=True)
adapted = get_peft_model(model, options)
with torch.no_grad():
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn(parameter.shape))
adapted.save_pretrained(ROOT / "adapter")
converter = str(SOURCES / "convert_lora_to_gguf.py")
place = [str(ROOT / "adapter"), "--base", str(ROOT / "base"), "--outfile", str(ROOT / "lora.gguf")]
run = subprocess.run([sys.executable, converter, *place], capture_output=True, text=True)
tensors = {t.name: torch.tensor(t.data) for t in gguf.GGUFReader(ROOT / "lora.gguf").tensors}
block = adapted.base_model.model.transformer.h[0].attn


def compare(name, layer):
    product = tensors[f"blk.0.{name}.weight.lora_b"] @ tensors[f"blk.0.{name}.weight.lora_a"]
    # the base model's tensor in GGUF is the transpose of Conv1D's weight: (out, in)
    delta = layer.get_delta_weight("default").detach().T
    base = tuple(layer.base_layer.weight.T.shape)
    print(f"{name}: {base} and {tuple(product.shape)}", end="")
    if product.shape != delta.shape:
        print()
        return base, tuple(product.shape)
    away, turned = (float((product - each).norm() / delta.norm()) for each in (delta, delta.T))
    print(f"; {away:.1f} and {turned:.1f}")
    return away, turned


print(f"converter: code {run.returncode}")
shapes = compare("attn_qkv", block.c_attn)
away, turned = compare("attn_output", block.c_proj)
is_as_seen = run.returncode == 0 and shapes == ((48, 16), (16, 48))
sys.exit(not (is_as_seen and away > 0.5 and turned < 1e-6))
PYTHON
