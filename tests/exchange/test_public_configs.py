"""Configs in the shapes that public adapters have: read where PEFT loads them, to its function.

The fields are those of real files, of releases of PEFT from 0.3 to 0.21; the weights are random and
the models tiny, with the module names of the real ones where those can be told apart by name alone.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.portable import portable
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.edits import CONFIG
from tests.exchange.peft_configs import UNSLOTH, UNSLOTH_2026

# The members that PEFT 0.3 wrote, those of alpaca-lora and most adapters of its year.
OLD = {
    "base_model_name_or_path", "bias", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "lora_alpha", "lora_dropout", "modules_to_save", "peft_type", "r", "target_modules",
    "task_type",
}  # fmt: skip
ROUNDING = 1e-6
"""Two ways of loading the same bytes; kernels may add in another order."""


@dataclass(frozen=True, kw_only=True)
class Public:
    """One shape of config.

    Attributes:
        base: The model.
        options: Of the LoraConfig that it is trained with.
        members: What the file says besides or instead.
        only: The members that the file has, where not all of today's.
    """

    base: Callable[[], Any] = zoo.llama
    options: dict[str, Any] = field(default_factory=lambda: {"target_modules": zoo.ATTENTION})
    members: dict[str, Any] = field(default_factory=dict)
    only: set[str] | None = None


def mapped(library: str, name: str) -> dict[str, Any]:
    return {
        "task_type": None,
        "auto_mapping": {"base_model_class": name, "parent_library": library},
    }


CAUSAL = {"task_type": "CAUSAL_LM"}
CONVOLUTIONS = {"target_modules": ["line", "plane", "volume"]}
BERT = {"target_modules": ["query", "value"]}


def biased() -> Any:
    return zoo.llama(attention_bias=True)


PUBLIC: dict[str, Public] = {
    "alpaca-lora of 2023": Public(
        options={"target_modules": zoo.ATTENTION},
        members=CAUSAL | {"enable_lora": None, "merge_weights": False},
        only=OLD | {"enable_lora", "merge_weights"},
    ),
    "QLoRA guanaco, all linear modules": Public(options={"target_modules": zoo.MLP}, only=OLD),
    "PEFT 0.6 with patterns": Public(
        options={"target_modules": zoo.ATTENTION, "rank_pattern": {"q_proj": 2}},
        only=OLD | {"rank_pattern", "alpha_pattern", "revision", "layers_pattern"},
    ),
    "no task type, a mapping to transformers": Public(
        members=mapped("transformers.models.llama.modeling_llama", "LlamaForCausalLM")
    ),
    "Axolotl": Public(
        options={"target_modules": zoo.MLP, "lora_dropout": 0.05},
        members=CAUSAL | {"loftq_config": None, "megatron_config": None},
    ),
    "Unsloth": Public(
        options={"target_modules": zoo.MLP, "use_rslora": True},
        members=CAUSAL | {"qalora_group_size": 16, "unsloth_fixed": True},
    ),
    "LLaMA-Factory": Public(options={"target_modules": zoo.MLP}, members={"megatron_config": None}),
    "TRL DPO": Public(members=CAUSAL | {"revision": "main", "peft_version": "0.18.0"}),
    "all-linear, kept as the word": Public(
        options={"target_modules": "all-linear"}, members={"target_modules": "all-linear"}
    ),
    "targets as an expression": Public(
        options={"target_modules": r".*\.layers\.\d+\.self_attn\.(q|v)_proj"}
    ),
    "targets listed twice": Public(
        members=CAUSAL | {"target_modules": [*zoo.ATTENTION, *zoo.ATTENTION]}
    ),
    "targets of several models, some of them absent": Public(
        options={"target_modules": ["q_proj", "v_proj", "query_key_value", "to_out.0"]}
    ),
    "targets with a number and a dot": Public(
        options={"target_modules": ["1.self_attn.q_proj", "mlp.up_proj", "0.self_attn.o_proj"]}
    ),
    "targets left to PEFT": Public(members={"target_modules": None}, only=OLD),
    "targets as an expression of Unsloth": Public(
        options={"target_modules": UNSLOTH},
        members=mapped("transformers.models.llama.modeling_llama", "LlamaForCausalLM")
        | CAUSAL
        | {"base_model_name_or_path": "unsloth/llama-3.2-1b-instruct-unsloth-bnb-4bit"},
    ),
    "targets as an expression of Unsloth, 2026": Public(options={"target_modules": UNSLOTH_2026}),
    "a language model's targets as an expression of ms-swift": Public(
        base=zoo.llava,
        options={"target_modules": r"^(model\.language_model(?=\.).*\.(q_proj|k_proj|down_proj))$"},
    ),
    "a language model's targets as an expression of Unsloth": Public(
        base=zoo.llava, options={"target_modules": UNSLOTH_2026}
    ),
    "towers excluded": Public(
        base=zoo.llava,
        options={
            "target_modules": zoo.MLP,
            "exclude_modules": r".*(audio_tower|vision_tower|embed_vision).*",
        },
    ),
    "targets as whole paths": Public(
        options={"target_modules": [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]}
    ),
    "layers to transform": Public(
        options={"target_modules": zoo.ATTENTION, "layers_to_transform": [0]}
    ),
    "layers to transform, with the name of their list": Public(
        base=zoo.bert,
        options=BERT | {"layers_to_transform": [1], "layers_pattern": "encoder.layer"},
    ),
    "layers replicated": Public(
        options={"target_modules": zoo.ATTENTION, "layer_replication": [[0, 2], [1, 2]]}
    ),
    "rank above the width": Public(
        options={"target_modules": zoo.ATTENTION, "r": 20, "lora_alpha": 2000}
    ),
    "base model that is not named": Public(members=CAUSAL | {"base_model_name_or_path": None}),
    "base model without a name": Public(
        members=mapped("transformers.models.llama.modeling_llama", "LlamaModel")
        | {"base_model_name_or_path": ""}
    ),
    "base model at a path": Public(
        members=CAUSAL | {"base_model_name_or_path": "/mnt/workspace/models/glm-4-9b-chat"}
    ),
    "DoRA": Public(options={"target_modules": zoo.ATTENTION, "use_dora": True}),
    "gaussian start": Public(
        options={"target_modules": zoo.ATTENTION, "init_lora_weights": "gaussian"}
    ),
    "EVA, already initialized": Public(
        members={"init_lora_weights": "eva", "eva_config": {"rho": 2.0, "tau": 0.99}}
    ),
    "options of starts that were not taken": Public(
        members={
            "init_lora_weights": False,
            "loftq_config": {"bits": None, "loftq_bits": 4},
            "corda_config": {"corda_method": "ipm"},
        }
    ),
    "activated LoRA": Public(
        options={
            "target_modules": zoo.ATTENTION,
            "alora_invocation_tokens": [3, 4],
            "task_type": "CAUSAL_LM",
        }
    ),
    "lora_alpha of half": Public(options={"target_modules": zoo.ATTENTION, "lora_alpha": 2}),
    "rank pattern by layer": Public(
        options={
            "target_modules": zoo.MLP,
            "rank_pattern": {"layers.0.mlp.up_proj": 6},
            "alpha_pattern": {"layers.0.mlp.up_proj": 12},
        }
    ),
    "bias of the adapted modules": Public(
        base=biased, options={"target_modules": ["q_proj"], "bias": "lora_only"}
    ),
    "bias within the factors": Public(
        base=biased, options={"target_modules": ["q_proj"], "lora_bias": True}
    ),
    "every bias": Public(base=zoo.bert, options=BERT | {"bias": "all"}),
    "head and embedding trained whole": Public(
        options={"target_modules": zoo.ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}
    ),
    "embedding and head with factors": Public(
        options={"target_modules": ["embed_tokens", "lm_head", "q_proj"]}
    ),
    "new tokens": Public(
        options={"target_modules": zoo.ATTENTION, "trainable_token_indices": [1, 3]}
    ),
    "new tokens of two tables": Public(
        options={
            "target_modules": zoo.ATTENTION,
            "trainable_token_indices": {"embed_tokens": [1, 3], "lm_head": [1, 3]},
        }
    ),
    "nothing trained whole": Public(members={"modules_to_save": []}),
    "reward model": Public(
        base=zoo.classifier, options={"target_modules": zoo.ATTENTION, "task_type": "SEQ_CLS"}
    ),
    "reward model with its score": Public(
        base=zoo.classifier,
        options={
            "target_modules": zoo.ATTENTION,
            "modules_to_save": ["score"],
            "task_type": "SEQ_CLS",
        },
    ),
    "classifier that names both heads": Public(
        base=zoo.classifier,
        options={"target_modules": zoo.ATTENTION, "task_type": "SEQ_CLS"},
        members={"modules_to_save": ["classifier", "score"]},
    ),
    "T5": Public(
        base=zoo.t5, options={"target_modules": ["q", "v", "k", "o"], "task_type": "SEQ_2_SEQ_LM"}
    ),
    "BERT classifier": Public(base=zoo.bert, options=BERT, members={"task_type": "SEQ_CLS"}),
    "BERT tagger": Public(base=zoo.bert, options=BERT, members={"task_type": "TOKEN_CLS"}),
    "embedding model": Public(
        base=zoo.bert,
        options={"target_modules": ["query", "key", "value", "dense"]},
        members={"task_type": "FEATURE_EXTRACTION"},
    ),
    "BERT without a task type": Public(
        base=zoo.bert, options=BERT, members=mapped("transformers.models.bert", "BertModel")
    ),
    "GLiNER2": Public(base=zoo.bert, options=BERT, members=mapped("gliner2.model", "Extractor")),
    "Chronos": Public(
        options={"target_modules": zoo.ATTENTION},
        members=mapped("chronos.chronos2.model", "Chronos2Model"),
    ),
    "GPT-2": Public(
        base=zoo.gpt2, options={"target_modules": ["c_attn"], "fan_in_fan_out": True}, only=OLD
    ),
    "GPT-2 without fan_in_fan_out": Public(
        base=zoo.gpt2,
        options={"target_modules": ["c_attn"], "fan_in_fan_out": True},
        members={"fan_in_fan_out": False},
    ),
    "Whisper": Public(
        members=mapped("transformers.models.whisper.modeling_whisper", "WhisperForConditional")
    ),
    "vision-language model": Public(
        options={"target_modules": r"^(?!.*visual).*(q_proj|v_proj).*"}
    ),
    "timm": Public(
        base=zoo.vision, options=CONVOLUTIONS, members=mapped("timm.models.resnet", "ResNet")
    ),
    "UNet of diffusers": Public(
        base=zoo.vision,
        options=CONVOLUTIONS,
        members=mapped("diffusers.models.unets.unet_2d_condition", "UNet2DConditionModel"),
    ),
    "model of a notebook": Public(
        base=zoo.vision, options={"target_modules": ["plane"]}, members=mapped("__main__", "Net")
    ),
    "attention of torch": Public(base=zoo.vision, options={"target_modules": ["mha"]}),
    "experts as parameters": Public(
        base=zoo.mixtral,
        options={
            "target_modules": zoo.ATTENTION,
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ),
    "PiSSA": Public(members={"init_lora_weights": "pissa"}),
    "fast PiSSA": Public(members={"init_lora_weights": "pissa_niter_16"}),
    "OLoRA": Public(members={"init_lora_weights": "olora"}),
    "CorDA": Public(members={"init_lora_weights": "corda"}),
    "LoftQ": Public(members={"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}),
    "Megatron": Public(members={"megatron_config": {"tensor_model_parallel_size": 1}}),
    "type in small letters": Public(members={"peft_type": "lora"}),
    "KaSA": Public(members={"kasa_config": {"beta": 0.1}}),
    "QALoRA": Public(members={"use_qalora": True}),
    "LoHa": Public(members={"peft_type": "LOHA"}),
    "AdaLoRA": Public(members={"peft_type": "ADALORA"}),
    "IA3": Public(members={"peft_type": "IA3"}),
    "prefix tuning": Public(members={"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 20}),
    "a file of another program": Public(
        members={"framework": "jax-tunix-qwix", "lora_rank": 32},
        only={"framework", "lora_rank", "lora_alpha", "target_modules"},
    ),
}
# PEFT itself does not load them, or their function is no B A on the plain base model.
REFUSED = {
    "PiSSA", "fast PiSSA", "OLoRA", "CorDA", "LoftQ", "Megatron", "type in small letters", "KaSA",
    "QALoRA", "LoHa", "AdaLoRA", "IA3", "prefix tuning", "a file of another program",
}  # fmt: skip


# They hold more than factor pairs.
NATIVE_ONLY = {
    "layers replicated", "DoRA", "bias of the adapted modules", "bias within the factors",
    "every bias", "head and embedding trained whole", "new tokens", "new tokens of two tables",
    "activated LoRA", "reward model", "reward model with its score",
    "classifier that names both heads", "embedding and head with factors",
}  # fmt: skip


def save(name: str, directory: Path) -> Path:
    """Save an adapter of a shape: random weights by PEFT, the config as that file has it."""
    public = PUBLIC[name]
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, **public.options}
    model = zoo.peft.get_peft_model(public.base(), zoo.peft.LoraConfig(**options))
    zoo.scatter(model)
    zoo.save(model.eval(), directory)
    members = json.loads((directory / CONFIG).read_bytes())
    members |= {"base_model_name_or_path": "org/base"} | public.members
    written = {key: members[key] for key in members if not public.only or key in public.only}
    (directory / CONFIG).write_text(json.dumps(written))
    return directory


def load(name: str, directory: Path) -> torch.Tensor:
    model = zoo.peft.PeftModel.from_pretrained(PUBLIC[name].base(), str(directory))
    return zoo.logits(model.eval())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(PUBLIC.keys() - REFUSED))
def test_a_public_config_is_read_to_the_function_that_peft_loads(name: str, tmp_path: Path) -> None:
    source = save(name, tmp_path / "saved")
    adapter = read_place(source, outside=Outside())
    assert adapter.config_bytes == (source / CONFIG).read_bytes()
    assert not any("unbounded work" in remark for remark in adapter.remarks)
    expected, base = load(name, source), PUBLIC[name].base
    assert not torch.equal(expected, zoo.logits(base()))
    assert torch.allclose(
        zoo.logits(adapter.apply_to(base())), expected, rtol=ROUNDING, atol=ROUNDING
    )
    if name in NATIVE_ONLY:
        with pytest.raises(RefusedError, match="no portable form"):
            portable(adapter, base_model="org/base")
        return
    form, _ = portable(adapter, base_model="org/base")
    actual = load(name, form.save(tmp_path / "portable"))
    assert (actual - expected).norm() <= zoo.PORTABLE * expected.norm()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_public_config_of_no_plain_lora_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises((RefusedError, InvalidInputError)) as caught:
        read_place(save(name, tmp_path), outside=Outside())
    assert caught.value.hint
