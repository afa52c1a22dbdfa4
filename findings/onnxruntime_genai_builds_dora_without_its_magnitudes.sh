#!/usr/bin/env bash
# onnxruntime-genai 0.18.0: its model builder takes a PEFT adapter (`adapter_path=`), loads it by
# PeftModel.from_pretrained and writes one ONNX model. Patterns, rsLoRA, saved modules and biases come
# out right. Of DoRA it writes B A without the magnitudes, of a LoRA on the embedding nothing at all,
# both without a warning, although PEFT has just loaded both whole.
#
# Seen (largest difference of the logits from PEFT's, and from the base model's):
#   plain 5e-08 and .36, rank_pattern 6e-08 and .31, DoRA .32 and .25, embedding .37 and 4e-08
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install onnxruntime-genai==0.18.0 onnxruntime==1.32.0 onnx==1.23.2 \
    onnx-ir==1.1.0 peft==0.21.2 transformers==5.23.0 safetensors
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import contextlib
import io
import sys
from pathlib import Path

import numpy as np
import onnxruntime_genai as og
import torch
from onnxruntime_genai.models import builder
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

ROOT, TOKENS = Path(sys.argv[1]), torch.arange(12).reshape(2, 6)


def base():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=40, num_attention_heads=2, head_dim=16, **sizes)
    return LlamaForCausalLM(config).eval()


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


def built(adapter):
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(40)}, unk_token="w0"))
    special = {"pad_token": "w0", "bos_token": "w1", "eos_token": "w2"}
    base().save_pretrained(ROOT / "base")
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(ROOT / "base")
    out = adapter.with_name(f"{adapter.name}-onnx")
    place = ("base", str(ROOT / "base"), str(out), "fp32", "cpu", str(ROOT / "cache"))
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        options = builder.parse_extra_options(*place, [f"adapter_path={adapter}"])
        builder.create_model(*place, **options)
    model = og.Model(str(out))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=16, batch_size=2)
    generator = og.Generator(model, parameters)
    generator.append_tokens(TOKENS.numpy().astype(np.int32))
    told = "warn" in said.getvalue().lower() and "dora" in said.getvalue().lower()
    return torch.from_numpy(np.array(generator.get_output("logits"))), told


def outcome(name, **options):
    model = get_peft_model(base(), LoraConfig(r=4, lora_alpha=6, **options))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.save_pretrained(ROOT / name)
    actual, told = built(ROOT / name)
    expected = logits(PeftModel.from_pretrained(base(), ROOT / name).eval())
    away, changed = (float((actual - other).abs().max()) for other in (expected, logits(base())))
    print(f"{name}: {away:.1e} from PEFT, {changed:.1e} from the base model, warned: {told}")
    return away, changed, told


plain = outcome("plain", target_modules=["q_proj", "v_proj"])
ranks = outcome("rank_pattern", target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2})
dora = outcome("DoRA", target_modules=["q_proj", "v_proj"], use_dora=True)
table = outcome("embedding", target_modules=["embed_tokens"])
right = all(away < 1e-5 < changed for away, changed, _ in (plain, ranks))
lost = dora[0] > 1e-2 and table[0] > 1e-2 and table[1] < 1e-5 and not (dora[2] or table[2])
sys.exit(not (right and lost))
PYTHON
