"""Tiny random models and the LoRA variants that PEFT knows, with random adapters."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import peft
    from transformers import (
        BertConfig,
        BertModel,
        CLIPVisionConfig,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        LlavaConfig,
        LlavaForConditionalGeneration,
        MixtralConfig,
        MixtralForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

__all__ = [
    "ATTENTION",
    "CASES",
    "EXACT",
    "MLP",
    "PORTABLE",
    "LlamaConfig",
    "LlamaForCausalLM",
    "bert",
    "gpt2",
    "live",
    "llama",
    "load",
    "logits",
    "peft",
    "save",
    "save_live",
    "scatter",
    "vision",
]
VOCABULARY = 40
TOKENS = torch.arange(12).reshape(2, 6) % VOCABULARY
EXACT = 0.0
"""Loading the same bytes gives the same function, bit for bit."""
PORTABLE = 1e-5
"""fp32 rounding of a folded scale, against logits of order one."""


class Vision(torch.nn.Module):
    """Convolutions of every rank and an attention block."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Conv1d(4, 6, 3)
        self.plane = torch.nn.Conv2d(3, 8, 3)
        self.volume = torch.nn.Conv3d(2, 4, 3)
        self.grouped = torch.nn.Conv2d(8, 8, 3, groups=4)
        self.mha = torch.nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, input_ids: torch.Tensor, **ignored: Any) -> torch.Tensor:
        x = input_ids.float() / VOCABULARY
        kind = next(self.parameters()).dtype
        flat = torch.sin(torch.arange(4 * 32.0)).reshape(1, 4, 32) * x.mean()
        line, plane = (
            self.line(flat.to(kind)),
            self.plane(torch.sin(torch.arange(3 * 64.0)).reshape(1, 3, 8, 8).to(kind)),
        )
        volume, grouped = (
            self.volume(torch.cos(torch.arange(2 * 64.0)).reshape(1, 2, 4, 4, 4).to(kind)),
            self.grouped(plane),
        )
        row = grouped.flatten(2).transpose(1, 2)
        return torch.cat(
            [
                tensor.flatten()
                for tensor in (line, plane, volume, grouped, self.mha(row, row, row)[0])
            ]
        )


def llama(**options: Any) -> torch.nn.Module:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return _seed(lambda: LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **options)))


def classifier() -> torch.nn.Module:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return _seed(
        lambda: LlamaForSequenceClassification(
            LlamaConfig(vocab_size=VOCABULARY, num_labels=3, pad_token_id=0, **sizes)
        )
    )


def mixtral() -> torch.nn.Module:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_local_experts": 4,
    }
    return _seed(lambda: MixtralForCausalLM(MixtralConfig(vocab_size=VOCABULARY, **sizes)))


def bert() -> torch.nn.Module:
    return _seed(
        lambda: BertModel(
            BertConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=24,
            )
        )
    )


def t5() -> torch.nn.Module:
    return _seed(
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
        )
    )


def gpt2() -> torch.nn.Module:
    return _seed(
        lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2)
        )
    )


def llava() -> torch.nn.Module:
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    eye = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
        projection_dim=16,
    )
    return _seed(
        lambda: LlavaForConditionalGeneration(
            LlavaConfig(text_config=text, vision_config=eye, image_token_id=VOCABULARY - 1)
        )
    )


def llava_inputs() -> dict[str, torch.Tensor]:
    """Return tokens with an image of four patches."""
    image = torch.full((1, 4), VOCABULARY - 1)
    pixels = torch.sin(torch.arange(3 * 64.0, dtype=torch.float64)).reshape(1, 3, 8, 8)
    return {
        "input_ids": torch.cat([TOKENS[:1, :4], image, TOKENS[:1, 4:]], dim=1),
        "pixel_values": pixels,
    }


def vision() -> torch.nn.Module:
    return _seed(Vision)


def _seed(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make().eval()


@dataclass(frozen=True, kw_only=True)
class Case:
    """One variant: base model, options of its LoraConfig, and whether a portable form exists."""

    base: Callable[[], torch.nn.Module]
    options: dict[str, Any] = field(default_factory=dict)
    portable: bool = True
    dtype: torch.dtype = torch.float32

    def config(self) -> Any:
        options: dict[str, Any] = {
            "r": 4,
            "lora_alpha": 6,
            "task_type": "FEATURE_EXTRACTION",
            **self.options,
        }
        return peft.LoraConfig(**options)


ATTENTION = ["q_proj", "v_proj"]
MLP = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
CASES: dict[str, Case] = {
    "plain": Case(base=llama, options={"target_modules": MLP}),
    "rslora": Case(base=llama, options={"target_modules": ATTENTION, "use_rslora": True}),
    "rank_pattern": Case(
        base=llama,
        options={"target_modules": MLP, "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 9}},
    ),
    "alpha_pattern": Case(
        base=llama, options={"target_modules": MLP, "alpha_pattern": {"q_proj": 32, "o_proj": 1.5}}
    ),
    "all_patterns": Case(
        base=llama,
        options={
            "target_modules": MLP,
            "use_rslora": True,
            "rank_pattern": {"v_proj": 3, "down_proj": 6},
            "alpha_pattern": {r"layers.\d.mlp.*": 5, "v_proj": 11},
        },
    ),
    "regex": Case(base=llama, options={"target_modules": r".*layers\.0\..*(q|v)_proj"}),
    "layers": Case(
        base=llama,
        options={
            "target_modules": ATTENTION,
            "layers_to_transform": [1],
            "layers_pattern": "layers",
        },
    ),
    "exclude": Case(
        base=llama, options={"target_modules": ATTENTION, "exclude_modules": r".*layers\.0.*q_proj"}
    ),
    "gaussian": Case(
        base=llama, options={"target_modules": ATTENTION, "init_lora_weights": "gaussian"}
    ),
    "orthogonal": Case(
        base=llama, options={"target_modules": ATTENTION, "init_lora_weights": "orthogonal"}
    ),
    "bf16": Case(
        base=llama, options={"target_modules": ATTENTION, "lora_alpha": 8}, dtype=torch.bfloat16
    ),
    "fp16": Case(
        base=llama, options={"target_modules": ATTENTION, "lora_alpha": 8}, dtype=torch.float16
    ),
    "dora": Case(
        base=llama, options={"target_modules": ATTENTION, "use_dora": True}, portable=False
    ),
    "lora_bias": Case(
        base=lambda: llama(attention_bias=True),
        options={"target_modules": ATTENTION, "lora_bias": True},
        portable=False,
    ),
    "bias_lora_only": Case(
        base=lambda: llama(attention_bias=True),
        options={"target_modules": ATTENTION, "bias": "lora_only"},
        portable=False,
    ),
    "bias_all": Case(
        base=bert, options={"target_modules": ["query", "value"], "bias": "all"}, portable=False
    ),
    "modules_to_save": Case(
        base=llama,
        options={"target_modules": ATTENTION, "modules_to_save": ["lm_head"]},
        portable=False,
    ),
    "classifier": Case(
        base=classifier,
        options={"target_modules": ATTENTION, "task_type": "SEQ_CLS"},
        portable=False,
    ),
    "trainable_tokens": Case(
        base=llama,
        options={"target_modules": ATTENTION, "trainable_token_indices": [3, 1]},
        portable=False,
    ),
    "embedding": Case(
        base=llama, options={"target_modules": ["embed_tokens", "q_proj"]}, portable=False
    ),
    "tied": Case(
        base=lambda: llama(tie_word_embeddings=True),
        options={
            "target_modules": ["embed_tokens", "lm_head", "q_proj"],
            "ensure_weight_tying": True,
        },
        portable=False,
    ),
    "alora": Case(
        base=llama,
        options={
            "target_modules": ATTENTION,
            "alora_invocation_tokens": [3, 4],
            "task_type": "CAUSAL_LM",
        },
        portable=False,
    ),
    "replicated": Case(
        base=llama,
        options={"target_modules": ATTENTION, "layer_replication": [[0, 2], [1, 2]]},
        portable=False,
    ),
    "bert": Case(base=bert, options={"target_modules": ["query", "value", "dense"]}),
    "gpt2": Case(
        base=gpt2, options={"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}
    ),
    "gpt2_embedding": Case(
        base=gpt2, options={"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}
    ),
    "convolution": Case(base=vision, options={"target_modules": ["line", "plane", "volume"]}),
    "grouped": Case(base=vision, options={"target_modules": ["plane", "grouped"]}, portable=False),
    "attention": Case(
        base=vision, options={"target_modules": ["mha", "plane"], "rank_pattern": {"mha": 3}}
    ),
    "experts": Case(
        base=mixtral, options={"target_modules": ["q_proj"], "target_parameters": EXPERTS, "r": 2}
    ),
    "experts_rslora": Case(
        base=mixtral,
        options={
            "target_modules": [],
            "target_parameters": EXPERTS[:1],
            "r": 3,
            "use_rslora": True,
        },
    ),
    "velora": Case(
        base=llama,
        options={"target_modules": ATTENTION, "velora_config": peft.VeloraConfig(num_groups=2)},
    ),
    "monteclora": Case(
        base=llama,
        options={"target_modules": ATTENTION, "monteclora_config": peft.MontecloraConfig()},
    ),
}


def live(name: str) -> Any:
    """Return a PeftModel of a case whose adapter weights are random, none of them zero."""
    case = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(case.base(), case.config(), autocast_adapter_dtype=False).eval()
    scatter(model)
    return model


def scatter(model: Any) -> None:
    """Give every adapter parameter random values."""
    generator = torch.Generator().manual_seed(11)
    chosen = ("lora_", "modules_to_save", "trainable_tokens_delta")
    for key, parameter in model.named_parameters():
        if any(part in key for part in chosen) or parameter.requires_grad:
            with torch.no_grad():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator) * 0.2
                    + (1.0 if "magnitude" in key else 0.0)
                )


def save(model: Any, directory: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Save as PEFT does, in an element type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = (
            {key: value.to(dtype) for key, value in peft.get_peft_model_state_dict(model).items()}
            if dtype != torch.float32
            else None
        )
        model.save_pretrained(directory)
    if state is not None:
        from safetensors.torch import save_file

        save_file(
            {key: value.contiguous() for key, value in state.items()},
            directory / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
    return directory


def save_live(name: str, directory: Path) -> Path:
    """Save a case's adapter."""
    return save(live(name), directory, dtype=CASES[name].dtype)


def load(name: str, directory: Path) -> Any:
    """Load a directory into a fresh base model by PEFT.

    Its warnings are errors, and no key may be left over.
    """
    from safetensors.torch import load_file

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings(
            "ignore", message="LoRA adapter added to ConvNd layer with groups"
        )  # says so of every grouped convolution
        model = peft.PeftModel.from_pretrained(CASES[name].base(), str(directory)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = set(peft.get_peft_model_state_dict(model))
    assert own == set(load_file(directory / "adapter_model.safetensors"))
    return model


def logits(model: Any) -> torch.Tensor:
    """Return what a model gives for fixed tokens."""
    inputs = {"input_ids": TOKENS}
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = TOKENS
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outputs = model(**inputs)
    for name in ("logits", "last_hidden_state"):
        if hasattr(outputs, name):
            return torch.as_tensor(getattr(outputs, name)).float()
    return torch.as_tensor(outputs).float()
