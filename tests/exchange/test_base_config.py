"""What the config.json of a base model says, and which files are none."""

import json

import pytest
import transformers

import share_registry as sr
from share_registry.exchange.base_config import ARCHITECTURES, BaseConfig, parse_base_config

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def base(kind: str, **config: object) -> BaseConfig:
    content = json.dumps(SIZES | {"architectures": [kind]} | config).encode()
    return parse_base_config(content, place="config.json")


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_a_config_that_does_not_say_so_ties_what_its_class_ties(kind: str) -> None:
    config = getattr(transformers, kind).config_class()
    # of encoders llama.cpp computes no output
    is_tied = config.tie_word_embeddings and ARCHITECTURES[kind] != "bert"
    assert base(kind).is_tied is is_tied


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "'MambaForCausalLM': what llama.cpp calls"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"num_attention_heads": None}, "has no num_attention_heads"),
        ({"num_attention_heads": "4"}, "num_attention_heads is 4, expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    ],
)
def test_a_config_that_is_none_of_a_known_model_is_refused(
    config: dict[str, object], message: str
) -> None:
    with pytest.raises(sr.ShareRegistryError, match=message) as caught:
        base("LlamaForCausalLM", **config)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        ("FalconForCausalLM", "convert it with llama.cpp's convert_lora_to_gguf.py"),
        ("LlamaForSequenceClassification", "Serve it with PEFT"),
    ],
)
def test_its_converter_is_a_way_out_for_the_classes_that_it_knows(kind: str, way: str) -> None:
    with pytest.raises(sr.RefusedError, match=kind) as caught:
        base(kind)
    assert way in str(caught.value.hint)


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "LORA"},
        {"model_type": "llama", "hidden_size": 64},
        {"architectures": []},
        {"architectures": [""]},
    ],
)
def test_a_file_that_names_no_class_is_said_to_be_another(config: dict[str, object]) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"^x has no architectures, expected") as caught:
        parse_base_config(json.dumps(config).encode(), place="x")
    assert caught.value.hint == "Give the config.json that lies beside the base model's weights."
