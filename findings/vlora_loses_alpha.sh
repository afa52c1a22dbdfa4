#!/usr/bin/env bash
# vlora-dev 1.0.0: an adapter that goes through a SharedSubspace comes back with another scale. The
# store has no alpha, and save_adapter writes lora_alpha = r where the original had 2 r or 4 r, so that
# the update is a half or a quarter of what went in, although both factors are rebuilt exactly.
#
# Seen (norm of the update that comes back over the one that went in, by lora_alpha / r):
#   1: 1.00   2: 0.50   4: 0.25; the factors themselves differ by less than 1e-5.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" -q install torch==2.13.0
"$folder/venv/bin/pip" -q install vlora-dev==1.0.0 safetensors numpy
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import torch
import vlora
from safetensors.torch import load_file, save_file

folder, rank = Path(sys.argv[1]), 2
module = "base_model.model.model.layers.0.self_attn.q_proj"


def update(path):
    config = json.loads((path / "adapter_config.json").read_text())
    tensors = load_file(path / "adapter_model.safetensors")
    a, b = tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"]
    return config["lora_alpha"] / config["r"] * b @ a, a


torch.manual_seed(0)
scales = (1, 2, 4)
places = [folder / f"scale-{scale}" for scale in scales]
for place, scale in zip(places, scales):
    place.mkdir()
    save_file(
        {f"{module}.lora_A.weight": torch.randn(rank, 16), f"{module}.lora_B.weight": torch.randn(8, rank)},
        place / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "target_modules": ["q_proj"]}
    (place / "adapter_config.json").write_text(json.dumps(config))
names = [place.name for place in places]
adapters = [vlora.load_adapter(place) for place in places]
subspace = vlora.SharedSubspace.from_adapters(adapters, task_ids=names, num_components=2)
subspace.save(folder / "store")
store = vlora.SharedSubspace.load(folder / "store")
for place, scale in zip(places, scales):
    vlora.save_adapter(store.reconstruct(place.name), folder / "back" / place.name)
    before, a = update(place)
    after, again = update(folder / "back" / place.name)
    ratio = float(after.norm() / before.norm())
    print(f"{scale}: {ratio:.2f}")
    assert torch.allclose(a, again, atol=1e-5)
    assert abs(ratio - 1 / scale) < 1e-3
PYTHON
