"""Compare the lint of SGLang with what the code of its wheel does with the files of the zoo.

    python -m pip download sglang==0.5.23 --no-deps -d DIRECTORY
    python -m tests.serving.check_sglang_verdicts DIRECTORY/sglang-0.5.23-*.whl

Its modules that read an adapter are loaded, with empty ones in place of what they import. Config and
tensors are read and checked as on /load_lora_adapter, then the buffers are filled as at the first
request, on a CPU. What stands in them is added to the base model's weights, whose logits are compared
with PEFT's. The server is the one that takes most of an adapter's modules: it has buffers for every
module whose sizes SGLang knows of the base model.
"""

import contextlib
import importlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import torch
from safetensors import safe_open
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from tests.exchange import zoo
from tests.exchange.consumers import REFUSED, SERVED, Form, compare, judge_updates
from tests.serving.wheels import import_from

PACKAGE: Final = "sglang.srt"
MEMBERS: Final = (
    *("sglang/srt/layers/utils/__init__.py", "sglang/srt/layers/utils/common.py"),
    *(
        f"sglang/srt/lora/{name}.py"
        for name in ("eviction_policy", "lora", "lora_config", "lora_manager", "mem_pool", "utils")
    ),
)
# --max-lora-rank
LARGEST_RANK: Final = 16
# What it calls a Llama's modules, fused -> the modules, in the order of their rows
FUSED: Final = {
    "self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "self_attn.o_proj": ("o_proj",),
    "mlp.gate_up_proj": ("gate_proj", "up_proj"),
    "mlp.down_proj": ("down_proj",),
}


class Whole:
    """A layer of a model that is on one device: it has all of a factor."""

    is_shared_fused_moe = False

    def slice_lora_a_weights(self, weights: torch.Tensor) -> torch.Tensor:
        return weights

    def slice_lora_b_weights(self, weights: torch.Tensor) -> torch.Tensor:
        return weights


def main() -> None:
    """Load each adapter as SGLang does, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        import_from(Path(sys.argv[1]), MEMBERS, root / "wheel")
        _stand_in()
        compare("sglang", SERVED, root, _behave)


def _stand_in() -> None:
    """Say what the modules ask of others: one process, on one device, without options."""
    one = dict.fromkeys(("tp_size", "attn_tp_size", "moe_ep_size", "moe_tp_size"), 1)
    none = dict.fromkeys(("tp_rank", "moe_ep_rank", "moe_tp_rank"), 0)
    answers: dict[str, dict[str, Any]] = {
        "environ": {
            "envs": SimpleNamespace(
                SGLANG_EXPERIMENTAL_LORA_OPTI=SimpleNamespace(get=lambda: False)
            )
        },
        "runtime_context": {"get_parallel": lambda: SimpleNamespace(**one, **none)},
        "utils": {"is_pin_memory_available": lambda: False},
        "lora.layers": {"unwrap_lora_layer": lambda module: module},
        "distributed": {"divide": lambda whole, parts: whole // parts},
    }
    answers["layers.moe.fused_moe_triton.layer"] = {"FusedMoE": MixtralExperts}
    for name, members in answers.items():
        vars(sys.modules[f"{PACKAGE}.{name}"]).update(members)


def _behave(form: Form) -> tuple[str, str]:
    """Return what SGLang makes of an adapter, from its loading to its first request."""
    base: Any = zoo.CASES[form.name].base()
    if getattr(base.config, "head_dim", None) is None:
        # as it does before anything asks for it
        base.config.head_dim = base.config.hidden_size // base.config.num_attention_heads
    try:
        pool, adapter = _fill(form, base)
    # refuses the adapter, or ends the server at the first request
    except (AssertionError, LookupError, RuntimeError, ValueError) as error:
        return REFUSED, f"{type(error).__name__}: {str(error).strip()[:90]}"
    return judge_updates(form, _updates(pool, adapter, base.config))


def _fill(form: Form, base: Any) -> tuple[Any, Any]:
    """Return the buffers with an adapter in them, and the adapter as it was read."""
    lora = {
        name: importlib.import_module(f"{PACKAGE}.lora.{name}")
        for name in ("lora", "lora_config", "lora_manager", "mem_pool")
    }
    config = lora["lora_config"].LoRAConfig(
        str(form.directory), base_vocab_size=base.config.vocab_size
    )
    pool = lora["mem_pool"].LoRAMemoryPool(
        base_hf_config=base.config,
        max_loras_per_batch=1,
        dtype=torch.float32,
        max_lora_rank=LARGEST_RANK,
        target_modules=_targets(config, base),
        base_model=base,
        eviction_policy="lru",
        lora_added_tokens_size=0,
    )
    manager = SimpleNamespace(attn_dp_enabled=False, lora_refs={}, memory_pool=pool)
    reference = SimpleNamespace(lora_name="x", lora_path=str(form.directory), pinned=False)
    lora["lora_manager"].LoRAManager.validate_new_adapter(manager, config, reference)
    adapter = lora["lora"].LoRAAdapter("x", config, base.config, None, None)
    with safe_open(form.directory / "adapter_model.safetensors", "pt") as file:
        adapter.initialize_weights_from_tensors(
            {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        )
    layers = [
        {f"model.layers.{number}.{name}": Whole() for name in FUSED}
        for number in range(base.config.num_hidden_layers)
    ]
    pool.load_lora_weight_to_buffer("x", 0, adapter, layers, Whole(), Whole())
    return pool, adapter


def _targets(config: Any, base: Any) -> set[str]:
    """Return the modules that a server of a base model can have buffers for."""
    utils = importlib.import_module(f"{PACKAGE}.lora.utils")
    names = {*utils._KNOWN_LORA_TARGET_MODULES}
    names |= utils.get_normalized_target_modules(config.target_modules)
    targets = set()
    for name in names:
        # without the sizes no server starts that is told to adapt a module
        with contextlib.suppress(NotImplementedError, AttributeError, TypeError):
            utils.get_hidden_dim(name, base.config, base, 0)
            targets.add(name)
    return targets


def _updates(pool: Any, adapter: Any, config: Any) -> dict[str, torch.Tensor]:
    """Return dW of every module: its rows of B, times its rank of the stacked A."""
    heads = config.hidden_size // config.num_attention_heads
    rows = dict.fromkeys(zoo.MLP, config.hidden_size) | dict.fromkeys(
        ("k_proj", "v_proj"), config.num_key_value_heads * heads
    )
    rows |= dict.fromkeys(("gate_proj", "up_proj"), config.intermediate_size)
    rank, scaling = adapter.config.r, adapter.scaling
    deltas = {}
    for place, names in FUSED.items():
        owner, _, fused = place.rpartition(".")
        for layer in range(config.num_hidden_layers):
            a, b = pool.A_buffer[fused][layer][0], pool.B_buffer[fused][layer][0]
            sides = b.split([rows[name] for name in names])
            for number, (name, side) in enumerate(zip(names, sides, strict=True)):
                part = a[number * rank : (number + 1) * rank]
                deltas[f"model.layers.{layer}.{owner}.{name}"] = side[:, :rank] @ part * scaling
    table = pool.embedding_B_buffer["embed_tokens"][0] @ pool.embedding_A_buffer["embed_tokens"][0]
    deltas["model.embed_tokens"] = table.T * scaling
    head = pool.lm_head_B_buffer["lm_head"][0] @ pool.lm_head_A_buffer["lm_head"][0]
    deltas["lm_head"] = head * scaling
    return {name: delta for name, delta in deltas.items() if delta.any()}


if __name__ == "__main__":
    main()
