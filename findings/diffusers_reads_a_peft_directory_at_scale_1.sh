#!/usr/bin/env bash
# diffusers 0.42.1: a directory that PEFT saved for a UNet looks unreadable, as its keys begin with
# `base_model.model.`. With that as the prefix, `load_lora_adapter(..., use_safetensors=True)` reads
# it, with its ranks, DoRA's magnitudes, biases and saved modules; but every scale is 1, although
# adapter_config.json lies beside it. There is no warning. The pipeline's `load_lora_weights` loads
# nothing of the same directory and returns as if it had; its log says so.
#
# Seen (largest difference from what PEFT computes):
#   lora_alpha = r: LoRA 0, DoRA 0, with a saved module 0
#   lora_alpha = 1.5 r: LoRA .26, DoRA .16; the pipeline: as the base model
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 safetensors
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
import warnings
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor")


def unet():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    ).eval()


def denoise(model):
    seed = torch.Generator().manual_seed(3)
    noise, text = torch.randn(1, 4, 8, 8, generator=seed), torch.randn(1, 3, 8, generator=seed)
    with torch.no_grad():
        return model(noise, 5, text).sample


def outcome(name, alpha, **options):
    config = LoraConfig(r=4, lora_alpha=alpha, target_modules=["to_q", "to_v"], **options)
    trained, folder = get_peft_model(unet(), config).eval(), Path(sys.argv[1]) / f"{name}{alpha}"
    seed = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=seed) * 0.3)
    trained.save_pretrained(folder)
    model = unet()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_lora_adapter(str(folder), prefix="base_model.model", use_safetensors=True)
    told = [w for w in caught if "alpha" in str(w.message).lower()]
    away = float((denoise(model) - denoise(trained)).abs().max())
    print(f"{name}, lora_alpha {alpha}: {away:.2g} from PEFT, {len(told)} warnings of alpha")
    return away if not told else None, folder, denoise(trained)


exact = [outcome("LoRA", 4), outcome("DoRA", 4, use_dora=True)]
exact.append(outcome("saved", 4, modules_to_save=["conv_in"]))
wrong = [outcome("LoRA", 6), outcome("DoRA", 6, use_dora=True)]
pipeline = StableDiffusionPipeline(
    unet=unet(), requires_safety_checker=False, **dict.fromkeys(PARTS)
)
pipeline.load_lora_weights(str(exact[0][1]))
nothing = torch.equal(denoise(pipeline.unet), denoise(unet()))
print("the pipeline's output is the base model's:", nothing)
is_exact = all(away is not None and away < 1e-5 for away, _, _ in exact)
is_wrong = all(away is not None and away > 1e-2 for away, _, _ in wrong)
sys.exit(not (is_exact and is_wrong and nothing))
PYTHON
