"""Live models: save_pretrained's files come out of a model, and an adapter goes in strictly."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from share_registry.errors import InvalidInputError, NotFoundError
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_model import read_model
from share_registry.exchange.selection import module_scales
from share_registry.outside.files import Outside
from tests.exchange import zoo

Original = Callable[[str], Path]
pytestmark = pytest.mark.usefixtures("quiet")


@pytest.mark.parametrize("name", sorted(set(zoo.CASES) - {"bf16", "fp16"}))
def test_a_live_model_gives_the_tensors_and_config_that_peft_saves(
    name: str, original: Original
) -> None:
    expected = read_place(original(name), outside=Outside())
    adapter = read_model(zoo.live(name))
    assert list(adapter.tensors) == list(expected.tensors)
    assert all(torch.equal(adapter.tensors[key], expected.tensors[key]) for key in expected.tensors)
    assert adapter.layout == expected.layout
    assert adapter.raw_bytes == expected.raw_bytes
    assert sorted_lists(adapter.config) == sorted_lists(expected.config)
    assert adapter.source.kind == "peft"


def sorted_lists(config: Any) -> dict[str, object]:
    return {
        name: sorted(value)
        if name in ("target_modules", "target_parameters") and isinstance(value, list)
        else value
        for name, value in config.items()
    }


def test_the_config_of_a_live_model_does_not_depend_on_the_order_of_sets() -> None:
    assert json.loads(read_model(zoo.live("plain")).config_bytes)["target_modules"] == sorted(
        zoo.MLP
    )


def test_patterns_of_a_live_model_keep_the_order_they_were_trained_with() -> None:
    patterns = {"v_proj": 8, "layers.0.self_attn.v_proj": 32}
    model = zoo.peft.get_peft_model(
        zoo.llama(),
        zoo.peft.LoraConfig(
            r=4,
            lora_alpha=4,
            target_modules=["v_proj"],
            alpha_pattern=patterns,
            task_type="CAUSAL_LM",
        ),
    )
    zoo.scatter(model)
    adapter = read_model(model)
    assert module_scales(adapter.config, adapter.layout) == [2.0, 2.0]


def test_one_of_several_adapters_is_chosen_by_name() -> None:
    model = zoo.live("plain")
    model.add_adapter("second", zoo.CASES["rslora"].config())
    zoo.scatter(model)
    assert len(read_model(model, adapter_name="second").layout.factors) == 4
    assert len(read_model(model).layout.factors) == 14
    model.set_adapter("second")
    assert len(read_model(model).layout.factors) == 4
    with pytest.raises(NotFoundError, match="no adapter 'third'; it has default, second"):
        read_model(model, adapter_name="third")
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(InvalidInputError, match="expected one"):
        read_model(model)


def test_a_class_outside_transformers_is_left_out_of_the_config() -> None:
    outside = zoo.peft.get_peft_model(
        zoo.vision(), zoo.peft.LoraConfig(r=2, target_modules=["plane"])
    )
    zoo.scatter(outside)
    assert read_model(outside).config["auto_mapping"] is None
    bert = zoo.peft.get_peft_model(zoo.bert(), zoo.peft.LoraConfig(r=2, target_modules=["query"]))
    zoo.scatter(bert)
    assert read_model(bert).config["auto_mapping"] == {
        "base_model_class": "BertModel",
        "parent_library": "transformers.models.bert.modeling_bert",
    }


@pytest.mark.parametrize("name", sorted(set(zoo.CASES) - {"bf16", "fp16"}))
def test_an_adapter_applied_to_a_plain_model_is_the_trained_function(
    name: str, original: Original
) -> None:
    adapter = read_place(original(name), outside=Outside())
    model = adapter.apply_to(zoo.CASES[name].base())
    assert float((zoo.logits(model) - zoo.logits(zoo.live(name))).abs().max()) == zoo.EXACT


def test_half_precision_adapters_apply_with_their_exact_values(original: Original) -> None:
    for name in ("bf16", "fp16"):
        adapter = read_place(original(name), outside=Outside())
        model = adapter.apply_to(zoo.llama())
        loaded = zoo.peft.get_peft_model_state_dict(model)
        assert all(
            torch.equal(loaded[key], tensor.float()) for key, tensor in adapter.tensors.items()
        )


def test_a_second_adapter_joins_a_peft_model_under_its_name(original: Original) -> None:
    model = zoo.live("rslora")
    adapter = read_place(original("plain"), outside=Outside())
    assert adapter.apply_to(model, name="second") is model
    assert model.active_adapter == "second"
    assert float((zoo.logits(model) - zoo.logits(zoo.live("plain"))).abs().max()) == zoo.EXACT
    model.set_adapter("default")
    assert float((zoo.logits(model) - zoo.logits(zoo.live("rslora"))).abs().max()) == zoo.EXACT
    with pytest.raises(InvalidInputError, match="has an adapter 'second' already"):
        adapter.apply_to(model, name="second")


def test_a_model_that_does_not_fit_is_left_as_it_was(original: Original) -> None:
    adapter = read_place(original("plain"), outside=Outside())
    base = zoo.LlamaForCausalLM(
        zoo.LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    names = [key for key, _ in base.named_parameters()]
    with pytest.raises(InvalidInputError, match="size mismatch"):
        adapter.apply_to(base)
    assert [key for key, _ in base.named_parameters()] == names
    model = zoo.peft.get_peft_model(base, zoo.CASES["rslora"].config())
    with pytest.raises(InvalidInputError, match="size mismatch"):
        adapter.apply_to(model, name="second")
    assert list(model.peft_config) == ["default"]


def test_a_model_that_does_not_fit_is_refused(original: Original) -> None:
    adapter = read_place(original("plain"), outside=Outside())
    for base in (zoo.bert(), zoo.gpt2()):
        with pytest.raises(InvalidInputError, match="does not fit the model"):
            adapter.apply_to(base)
    deeper = zoo.LlamaForCausalLM(
        zoo.LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    with pytest.raises(
        InvalidInputError, match=r"expects .*layers.2.*0 tensors too many, 14 too few"
    ):
        adapter.apply_to(deeper)
    shallow = zoo.LlamaForCausalLM(
        zoo.LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    with pytest.raises(
        InvalidInputError, match=r"has no place for .*14 tensors too many, 0 too few"
    ):
        adapter.apply_to(shallow)
    wider = zoo.LlamaForCausalLM(
        zoo.LlamaConfig(
            vocab_size=40,
            hidden_size=32,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    with pytest.raises(InvalidInputError, match="size mismatch"):
        adapter.apply_to(wider)
