"""Compare the lint of LoRAX with what the code of its server does with the files of the zoo.

    git clone https://github.com/predibase/lorax && git -C lorax checkout a7394ba3
    git -C lorax archive --format=zip -o ../lorax.zip HEAD:server lorax_server
    python -m tests.serving.check_lorax_verdicts lorax.zip

It is in no package index. Its modules that read an adapter are loaded, with empty ones in place of
what they import: config and tensors are read, mapped to the modules of a Llama, scaled and stacked,
on a CPU. The stacks are added to the base model's weights, whose logits are compared with PEFT's.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from safetensors.torch import load_file

from tests.exchange import zoo
from tests.exchange.consumers import LLAMAS, REFUSED, Form, compare, judge_updates
from tests.serving.wheels import Anything, import_from

MEMBERS: Final = (
    *(f"lorax_server/adapters/{name}.py" for name in ("config", "lora", "types", "weights")),
    *(f"lorax_server/utils/{name}.py" for name in ("lora", "punica", "weights")),
)
OWNERS: Final = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn") | (
    dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp")
)
HEAD: Final = "lm_head"


def main() -> None:
    """Load each adapter as LoRAX does, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        import_from(Path(sys.argv[1]), MEMBERS, root / "sources")
        sys.modules["loguru"] = Anything("loguru")
        compare("lorax", LLAMAS, root, _behave)


def _behave(form: Form) -> tuple[str, str]:
    """Return what LoRAX makes of an adapter."""
    base: Any = zoo.CASES[form.name].base()
    layers = range(base.config.num_hidden_layers)
    names = {
        (layer, kind): f"model.layers.{layer}.{owner}.{kind}"
        for kind, owner in OWNERS.items()
        for layer in layers
    } | {(0, HEAD): HEAD}
    model = SimpleNamespace(
        world_size=1,
        dtype=torch.float32,
        target_to_layer={key: (name, _layer()) for key, name in names.items()},
        get_num_layers_for_type=lambda kind: 1 if kind == HEAD else len(layers),
        # of one process, which has all of every factor
        shard_lora_weights=lambda weights_a, weights_b, _: (weights_a, weights_b),
    )
    try:
        return judge_updates(form, _updates(form.directory, model, names))
    except (KeyError, RuntimeError, ValueError) as error:
        return REFUSED, str(error).strip()[:90]


def _layer() -> SimpleNamespace:
    weight = torch.empty(0)
    return SimpleNamespace(base_layer=SimpleNamespace(linear=SimpleNamespace(weight=weight)))


def _updates(
    directory: Path, model: Any, names: dict[tuple[int, str], str]
) -> dict[str, torch.Tensor]:
    """Return dW of every module that is placed, in the order of its loading."""
    config = importlib.import_module("lorax_server.adapters.lora").LoraConfig.load(
        str(directory), None
    )
    tensors = load_file(directory / "adapter_model.safetensors")
    modules, unused = config.map_weights_for_model(tensors, tuple(names.values()))
    deltas = {}
    for kind in (*OWNERS, HEAD):
        stacked = config.load_batched_adapter_weights(model, modules, kind, unused, True)
        if stacked is None:
            continue
        for layer, (a, b) in enumerate(zip(stacked.weights_a, stacked.weights_b, strict=True)):
            rows = a if a.shape[0] == b.shape[0] else a.T
            deltas[names[layer, kind]] = (rows.T @ b).T
    return deltas


if __name__ == "__main__":
    main()
