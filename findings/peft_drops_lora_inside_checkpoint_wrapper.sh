#!/usr/bin/env bash
# PEFT 0.21.2 and torch 2.13.0: save_pretrained silently leaves out the LoRA factors of every module
# inside torch's checkpoint_wrapper (what FSDP's activation checkpointing puts around layers).
#
# The wrapper's state_dict hook takes "_checkpoint_wrapped_module." out of the keys; since PEFT picks
# entries of the state dict by the paths of `named_modules`, which still have it, none is found. No
# error and no warning; the saved adapter loads as a partly untrained one.
#
# Seen: "plain: 4 factors" and "wrapped: 2 factors" (layer 0 is gone). Exits 1 when that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q peft==0.21.2 safetensors
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import sys
import warnings

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

warnings.simplefilter("ignore")


def save(wrapped: bool) -> list[str]:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    layers = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict({"q": model[0]}), torch.nn.ModuleDict({"q": model[1]})])})
    peft_model = get_peft_model(layers, LoraConfig(r=2, target_modules=["q"]))
    if wrapped:
        peft_model.base_model.model["layers"][0] = checkpoint_wrapper(peft_model.base_model.model["layers"][0])
    peft_model.save_pretrained("out")
    return sorted(load_file("out/adapter_model.safetensors"))


plain, wrapped = save(False), save(True)
print(f"plain: {len(plain)} factors")
print(f"wrapped: {len(wrapped)} factors")
sys.exit(0 if len(plain) == 4 and len(wrapped) == 2 else 1)
PY
