"""What the lint says of ONNX Runtime GenAI is what its model builder and its runtime do, on a CPU."""

import importlib.metadata
import io
import re
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    Lfm2MoeConfig,
    Lfm2MoeForCausalLM,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

import share_registry as sr
from share_registry.exchange.export_form import form_of
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_directory import adapter_of
from share_registry.exchange.targets.onnxruntime_rules import BUILT
from share_registry.exchange.targets.servers import lint
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.consumers import LLAMAS, REFUSED, Form, forms_of, judge, verdict

Original = Callable[[str], Path]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import onnxruntime_genai as og
    from onnxruntime_genai.models import builder

TARGET = "onnxruntime"
HEAD_WIDTH = 16
"""Of which its kernels for attention take multiples alone."""


@pytest.fixture
def heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the zoo's Llamas heads that its kernels take; not for tests of `original`, which keeps them."""
    monkeypatch.setattr(zoo, "LlamaConfig", partial(zoo.LlamaConfig, head_dim=HEAD_WIDTH))


def write_base(model: Any, folder: Path) -> Path:
    """Write a model as the builder reads it, with a vocabulary of words."""
    vocabulary = {f"word{number}": number for number in range(zoo.VOCABULARY)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="word0"))
    special = {"pad_token": "word0", "bos_token": "word1", "eos_token": "word2"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    if isinstance(model, zoo.Vision):
        # no model of transformers: there is no class to name
        PretrainedConfig(architectures=["Vision"]).save_pretrained(folder)
    else:
        model.save_pretrained(folder)
    return folder


def build(base: Path, adapter: Path, folder: Path) -> Path:
    """Run the model builder, as its command line does."""
    place = ("base", str(base), str(folder), "fp32", "cpu", str(folder / "cache"))
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = builder.parse_extra_options(*place, [f"adapter_path={adapter}"])
        builder.create_model(*place, **options)
    return folder


def logits(folder: Path) -> torch.Tensor:
    """Return what the runtime computes for the tokens of the zoo."""
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(max_length=16, batch_size=len(zoo.TOKENS))
    generator = og.Generator(model, parameters)
    generator.append_tokens(zoo.TOKENS.numpy().astype(np.int32))
    return torch.from_numpy(np.array(generator.get_output("logits"))).float()


def behave(form: Form, folder: Path) -> str:
    """Return what it makes of an adapter, beside what PEFT makes of it."""
    base = write_base(zoo.CASES[form.name].base(), folder / "base")
    try:
        actual = logits(build(base, form.directory, folder / "onnx"))
    except (RuntimeError, ValueError):
        return REFUSED
    return judge(actual, zoo.logits(zoo.load(form.name, form.directory)))[0]


@pytest.mark.usefixtures("heads")
@pytest.mark.parametrize("name", sorted(zoo.CASES))
def test_onnxruntime_genai_0_18_does_what_its_verdict_says(name: str, tmp_path: Path) -> None:
    assert importlib.metadata.version("onnxruntime-genai").startswith("0.18.")
    for form in forms_of(name, tmp_path):
        folder = tmp_path / form.kind
        assert behave(form, folder) == verdict(form.directory, TARGET), form


# What the builder says of a base model, and the lint of its adapter
UNBUILT = {
    "bert": ("is not currently supported", "no encoders such as BERT"),
    "classifier": ("is not currently supported", "no classifiers"),
    "experts": ("is not currently supported", "takes no factors of experts"),
    "gpt2": ("is not currently supported", r"layers in transformer\.h, such as GPT-2"),
    "grouped": ("Unrecognized model", "take no convolutions"),
}


@pytest.mark.parametrize("name", sorted(set(zoo.CASES) - set(LLAMAS)))
def test_what_its_builder_does_not_know_is_refused_with_a_way_out(
    name: str, original: Original, tmp_path: Path
) -> None:
    kind = zoo.CASES[name].base.__name__
    kind = {"mixtral": "experts", "vision": "grouped"}.get(kind, kind)
    theirs, ours = UNBUILT[kind]
    base = write_base(zoo.CASES[name].base(), tmp_path / "base")
    with pytest.raises((NotImplementedError, ValueError), match=theirs):
        build(base, original(name), tmp_path / "onnx")
    adapter = read_place(original(name), outside=Outside())
    with pytest.raises(sr.RefusedError, match=ours) as caught:
        form_of(adapter, profile=None, target=TARGET, base_model="")
    able = caught.value.hint.removeprefix("Served as it is by: ").removesuffix(".").split(", ")
    assert "peft" in able
    assert TARGET not in able


def test_the_classes_that_are_refused_by_name_are_those_that_the_builder_does_not_know() -> None:
    source = Path(builder.__file__).read_text()
    assert {*re.findall(r'config\.architectures\[0\] == "(\w+)"', source)} == BUILT


@pytest.mark.parametrize(
    ("config", "label", "reason"),
    [
        ({"auto_mapping": {"base_model_class": "MptForCausalLM"}}, "", "builds no MptForCausalLM"),
        ({}, "mistralai/Mixtral-8x7B-v0.1", "builds no models of the family Mixtral"),
        ({}, "Qwen/Qwen3-30B-A3B", "builds no models of the family Qwen3-MoE"),
        ({"auto_mapping": {"base_model_class": "LlamaForCausalLM"}}, "", None),
        ({}, "meta-llama/Llama-3.1-8B", None),
    ],
)
def test_a_base_model_is_told_by_its_class_or_its_label(
    config: dict[str, Any], label: str, reason: str | None, original: Original
) -> None:
    plain = read_place(original("plain"), outside=Outside())
    adapter = adapter_of(plain.tensors, {**plain.config, **config})
    assert lint(adapter, base_model=label, target=TARGET) == (
        () if reason is None else (f"ONNX Runtime GenAI: {reason}.",)
    )


@pytest.mark.parametrize(
    ("kind", "label", "reason"),
    [
        ("MixtralForCausalLM", "", "builds no MixtralForCausalLM"),
        ("", "mistralai/Mixtral-8x7B-v0.1", "builds no models of the family Mixtral"),
        (
            "GptOssForCausalLM",
            "",
            "takes no factors of experts: it fails on those of LFM2 and GPT-OSS",
        ),
        ("", "", "takes no factors of experts: it fails on those of LFM2 and GPT-OSS"),
    ],
)
def test_experts_are_refused_for_one_reason(
    kind: str, label: str, reason: str, original: Original
) -> None:
    fused = read_place(original("experts"), outside=Outside())
    named = {"auto_mapping": {"base_model_class": kind}} if kind else {}
    adapter = adapter_of(fused.tensors, {**fused.config, **named})
    assert lint(adapter, base_model=label, target=TARGET) == (f"ONNX Runtime GenAI: {reason}.",)


def test_its_builder_fails_on_the_experts_of_a_mixture_that_it_knows(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24}
    config = Lfm2MoeConfig(
        vocab_size=zoo.VOCABULARY,
        **sizes,
        num_hidden_layers=2,
        layer_types=["conv", "full_attention"],
        num_dense_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=4,
        num_experts_per_tok=2,
    )
    base: Any = Lfm2MoeForCausalLM(config)
    folder = write_base(base, tmp_path / "base")
    options = zoo.peft.LoraConfig(
        r=4,
        target_modules=["q_proj"],
        target_parameters=["feed_forward.experts.gate_up_proj"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = zoo.peft.get_peft_model(base, options)
    adapter = zoo.save(model, tmp_path / "adapter")
    with pytest.raises(ValueError, match="experts must provide dense weights"):
        build(folder, adapter, tmp_path / "onnx")
    assert verdict(adapter, TARGET) == REFUSED
