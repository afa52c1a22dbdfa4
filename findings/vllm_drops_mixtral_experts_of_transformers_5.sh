#!/usr/bin/env bash
# vllm 0.33.0: a LoRA that PEFT 0.21.2 trains on the experts of a Mixtral of transformers 5
# (target_parameters mlp.experts.gate_up_proj and down_proj) is loaded without an error or a warning,
# and none of its pairs for experts has a place: vLLM's Mixtral has its experts at
# `block_sparse_moe.experts`, and maps no `mlp.experts` to it. The check of names lets `experts` pass
# under any path, and the check that refuses fused experts of other models looks at its own paths alone.
#
# Seen (names of pairs that are loaded; of those, without a module in vLLM's model):
#   loaded 3 of layer 0: self_attn.q_proj, mlp.experts, mlp.experts.base_layer
#   without a module: mlp.experts, mlp.experts.base_layer
# Exits non-zero if that changes. vLLM's model is built on a CPU, without weights and kernels; the
# wheels are several GB.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install vllm==0.33.0 peft==0.21.2 transformers==5.20.2
HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=WARNING HOME="$folder" "$folder/venv/bin/python" - "$folder" \
    <<'PYTHON'
import logging
import sys

import vllm.platforms
from vllm.platforms.cpu import CpuPlatform

vllm.platforms._current_platform = CpuPlatform()

import torch
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM
from vllm.config import DeviceConfig, LoadConfig, LoRAConfig, ModelConfig, VllmConfig
from vllm.config import set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.utils import get_supported_lora_modules, process_packed_modules_mapping
from vllm.model_executor.model_loader.utils import initialize_model

ROOT = sys.argv[1]
WARNINGS = []


class Listener(logging.Handler):
    def emit(self, record):
        WARNINGS.append(record.getMessage())


sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "vocab_size": 40}
heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 4}
base = MixtralForCausalLM(MixtralConfig(**sizes, **heads))
base.save_pretrained(f"{ROOT}/base")
options = LoraConfig(
    r=4,
    target_modules=["q_proj"],
    target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
)
get_peft_model(base, options).save_pretrained(f"{ROOT}/adapter")

lora_config = LoRAConfig(max_lora_rank=16, max_loras=1, lora_dtype=torch.float32)
config = VllmConfig(
    model_config=ModelConfig(
        model=f"{ROOT}/base", skip_tokenizer_init=True, dtype="float32", enforce_eager=True
    ),
    lora_config=lora_config,
    device_config=DeviceConfig("cpu"),
    load_config=LoadConfig(load_format="dummy"),
)
with set_current_vllm_config(config):
    init_distributed_environment(1, 0, f"file://{ROOT}/ranks", 0, "gloo")
    initialize_model_parallel(1, 1)
    model = initialize_model(vllm_config=config)

# as vllm.lora.worker_manager loads an adapter
packed = process_packed_modules_mapping(model)
supported = get_supported_lora_modules(model)
expected = {part for name in supported for part in packed.get(name, [name])} | {"experts"}
helper = PEFTHelper.from_local_dir(f"{ROOT}/adapter", 16)
helper.validate_legal(lora_config)
logging.getLogger("vllm").addHandler(Listener(logging.WARNING))
loaded = LoRAModel.from_local_checkpoint(
    f"{ROOT}/adapter",
    expected,
    peft_helper=helper,
    lora_model_id=1,
    device="cpu",
    dtype=torch.float32,
    weights_mapper=model.hf_to_vllm_mapper.get_rename_mapper(),
)
places = {name for name, _ in model.named_modules()}
parts = {
    f"{owner}.{part}"
    for owner, _, last in (name.rpartition(".") for name in places)
    for part in packed.get(last, ())
}
lost = sorted(name for name in loaded.loras if name not in places | parts)
print(f"loaded {len(loaded.loras)}: {', '.join(sorted(loaded.loras))}")
print(f"without a module: {', '.join(lost)}; warnings: {WARNINGS}")
prefix = "model.layers.0.mlp.experts"
is_as_seen = lost == [prefix, f"{prefix}.base_layer"] and len(loaded.loras) == 3 and not WARNINGS
sys.exit(not is_as_seen)
PYTHON
