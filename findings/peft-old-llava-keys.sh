#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.23.0: an adapter of LLaVA that was saved under transformers 4
# (keys language_model.model..., vision_tower.vision_model..., multi_modal_projector...) is loaded in
# part. The LoRA of the language model and of the vision tower is renamed and arrives; that of the
# projector between them is not, its B stays zero, and a warning about missing keys is all.
#
# Seen (largest difference between the file and what the model holds, 0 = loaded):
#   language model 0.0, vision tower 0.0, projector 0.83; logits .30 apart from those of the same
#   adapter in today's keys.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install peft==0.21.2 transformers==5.23.0 safetensors
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

folder = Path(sys.argv[1])


def base():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    text = LlamaConfig(vocab_size=40, **sizes)
    eye = CLIPVisionConfig(image_size=8, patch_size=4, projection_dim=16, **sizes)
    return LlavaForConditionalGeneration(
        LlavaConfig(text_config=text, vision_config=eye, image_token_id=39)
    ).eval()


def logits(model):
    tokens = torch.tensor([[1, 2, 39, 39, 39, 39, 3]])
    pixels = torch.sin(torch.arange(192.0)).reshape(1, 3, 8, 8)
    with torch.no_grad():
        return model(input_ids=tokens, pixel_values=pixels).logits


PARTS = {
    "language model": ("model.language_model.", "language_model.model."),
    "projector": ("model.multi_modal_projector.", "multi_modal_projector."),
    "vision tower": ("model.vision_tower.", "vision_tower.vision_model."),
}
prefix = "base_model.model."
model = get_peft_model(base(), LoraConfig(r=2, target_modules=["q_proj", "linear_1"]))
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.normal_(parameter, std=0.3)
model.save_pretrained(folder / "today")
tensors = load_file(folder / "today" / "adapter_model.safetensors")


def old(key):
    for today, before in PARTS.values():
        if key.startswith(prefix + today):
            return prefix + before + key.removeprefix(prefix + today)
    return key


(folder / "old").mkdir()
save_file({old(k): v for k, v in tensors.items()}, folder / "old" / "adapter_model.safetensors")
config = (folder / "today" / "adapter_config.json").read_bytes()
(folder / "old" / "adapter_config.json").write_bytes(config)

loaded = {name: PeftModel.from_pretrained(base(), folder / name).eval() for name in ("today", "old")}
state = get_peft_model_state_dict(loaded["old"])
lost = {
    part: max(
        float((state[key] - tensor).abs().max())
        for key, tensor in tensors.items()
        if key.startswith(prefix + today)
    )
    for part, (today, _) in PARTS.items()
}
apart = float((logits(loaded["old"]) - logits(loaded["today"])).abs().max())
print("lost:", lost, "logits apart:", apart)
assert lost["language model"] == 0
assert lost["vision tower"] == 0
assert lost["projector"] > 0.1 and apart > 1e-2
PYTHON
