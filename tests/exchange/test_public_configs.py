"""Configs in the shapes that public adapters have: read where PEFT loads them, to its function.

The fields are those of real files, of releases of PEFT from 0.3 to 0.21; the weights are random and
the models tiny, with the module names of the real ones where those can be told apart by name alone.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from share_registry.errors import RefusedError
from share_registry.exchange.peft_directory import read_directory
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.test_refusals import CONFIG

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
    "targets as whole paths": Public(
        options={"target_modules": [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]}
    ),
    "layers to transform": Public(
        options={"target_modules": zoo.ATTENTION, "layers_to_transform": [0]}
    ),
    "DoRA": Public(options={"target_modules": zoo.ATTENTION, "use_dora": True}),
    "gaussian start": Public(
        options={"target_modules": zoo.ATTENTION, "init_lora_weights": "gaussian"}
    ),
    "EVA, already initialized": Public(members={"init_lora_weights": "eva"}),
    "lora_alpha of half": Public(options={"target_modules": zoo.ATTENTION, "lora_alpha": 2}),
    "rank pattern by layer": Public(
        options={
            "target_modules": zoo.MLP,
            "rank_pattern": {"layers.0.mlp.up_proj": 6},
            "alpha_pattern": {"layers.0.mlp.up_proj": 12},
        }
    ),
    "bias of the adapted modules": Public(options={"target_modules": ["q_proj"]}),
    "head and embedding trained whole": Public(
        options={"target_modules": zoo.ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}
    ),
    "embedding and head with factors": Public(
        options={"target_modules": ["embed_tokens", "lm_head", "q_proj"]}
    ),
    "new tokens": Public(
        options={"target_modules": zoo.ATTENTION, "trainable_token_indices": [1, 3]}
    ),
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
    "type in small letters": Public(members={"peft_type": "lora"}),
    "KaSA": Public(members={"kasa_config": {"beta": 0.1}}),
    "QALoRA": Public(members={"use_qalora": True}),
    "LoHa": Public(members={"peft_type": "LOHA"}),
}
# PEFT itself does not load them, or their function is no B A on the plain base model.
REFUSED = {"PiSSA", "type in small letters", "KaSA", "QALoRA", "LoHa"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_config_is_read_to_the_function_that_peft_loads(name: str, tmp_path: Path) -> None:
    public = PUBLIC[name]
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, **public.options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo.peft.get_peft_model(public.base(), zoo.peft.LoraConfig(**options))
        zoo.scatter(model)
        zoo.save(model.eval(), tmp_path)
        members = json.loads((tmp_path / CONFIG).read_bytes()) | public.members
        members["base_model_name_or_path"] = "org/base"
        written = {key: members[key] for key in members if not public.only or key in public.only}
        (tmp_path / CONFIG).write_text(json.dumps(written))
        if name in REFUSED:
            with pytest.raises(RefusedError) as caught:
                read_directory(tmp_path, outside=Outside())
            assert caught.value.hint
            return
        adapter = read_directory(tmp_path, outside=Outside())
        loaded = zoo.peft.PeftModel.from_pretrained(public.base(), str(tmp_path)).eval()
        applied = adapter.apply_to(public.base())
        assert adapter.config_bytes == (tmp_path / CONFIG).read_bytes()
        expected = zoo.logits(loaded)
        assert not torch.equal(expected, zoo.logits(public.base()))
        assert torch.allclose(zoo.logits(applied), expected, rtol=ROUNDING, atol=ROUNDING)
