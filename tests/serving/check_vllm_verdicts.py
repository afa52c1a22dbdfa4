"""Compare the lint of vLLM with what the code of its wheel does with the files of the zoo.

    python -m pip download vllm==0.33.0 --no-deps -d DIRECTORY
    python -m tests.serving.check_vllm_verdicts DIRECTORY/vllm-0.33.0-*.whl

Its modules that read an adapter are loaded, with empty ones in place of what they import: the config
is read and checked, the tensors are loaded and scaled, on a CPU. What it lets pass is added to the
base model's weights, whose logits are compared with PEFT's.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch

from tests.exchange import zoo
from tests.exchange.consumers import LLAMAS, REFUSED, Form, compare, judge_updates
from tests.serving.wheels import import_from

# Of a Llama: what its class in vLLM says that LoRA may be on
EXPECTED: Final = {*zoo.MLP, "embed_tokens", "lm_head", "qkv_proj", "gate_up_proj", "experts"}
MEMBERS: Final = tuple(
    f"vllm/lora/{name}.py" for name in ("peft_helper", "lora_model", "lora_weights", "utils")
)
# Llama is one of the models that it names
SETTLED: Final = ("refuses embedding factors but for some models",)


def main() -> None:
    """Load each adapter as vLLM does, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        import_from(Path(sys.argv[1]), MEMBERS, root / "wheel")
        logger: Any = sys.modules["vllm.logger"]
        logger.init_logger = lambda _: SimpleNamespace(
            **dict.fromkeys(("info", "warning", "debug", "warning_once", "info_once"), print)
        )
        utilities: Any = sys.modules["vllm.utils.torch_utils"]
        utilities.PIN_MEMORY = False
        compare("vllm", LLAMAS, root, _behave, SETTLED)


def _behave(form: Form) -> tuple[str, str]:
    """Return what vLLM makes of an adapter."""
    helper = importlib.import_module("vllm.lora.peft_helper").PEFTHelper
    model = importlib.import_module("vllm.lora.lora_model").LoRAModel
    try:
        peft_helper = helper.from_local_dir(str(form.directory), max_position_embeddings=None)
        peft_helper.validate_legal(SimpleNamespace(max_lora_rank=512))
        loaded = model.from_local_checkpoint(
            str(form.directory),
            EXPECTED,
            peft_helper=peft_helper,
            lora_model_id=1,
            device="cpu",
            dtype=torch.float32,
            model_vocab_size=zoo.VOCABULARY,
        )
    except (ValueError, KeyError, AssertionError) as error:
        return REFUSED, str(error).strip()[:90]
    deltas = {}
    for module, weights in loaded.loras.items():
        delta = weights.lora_b @ weights.lora_a * weights.scaling
        deltas[module] = delta.T if module.endswith("embed_tokens") else delta
    return judge_updates(form, deltas)


if __name__ == "__main__":
    main()
