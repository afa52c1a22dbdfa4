"""Models and files that were wrapped: the adapter in them is the one of the plain model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from share_registry.errors import InvalidInputError, RefusedError
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.load import load
from share_registry.exchange.peft_model import live_tensors, read_model
from share_registry.exchange.portable import portable
from share_registry.materialize.models import swap
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.edits import TENSORS, set_config, set_tensors

Copied = Callable[[str], Path]
PREFIX = "base_model.model."
pytestmark = pytest.mark.usefixtures("quiet")


class Parallel(torch.nn.Module):
    """What data parallelism makes of a model: the same, one attribute deeper."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module


def with_checkpoints(model: Any) -> Any:
    layers = model.get_base_model().model.layers
    layers[0] = checkpoint_wrapper(layers[0])
    return model


def around_compiled(model: Any) -> Any:
    inner = model.base_model
    inner.model = torch.compile(inner.model)
    return model


WRAPPINGS: dict[str, Callable[[Any], Any]] = {
    "compiled": torch.compile,
    "data parallel": Parallel,
    "DataParallel of torch": torch.nn.DataParallel,
    "compiled and parallel": lambda model: torch.compile(Parallel(model)),
    "parallel of a compiled one": lambda model: Parallel(torch.compile(model)),
    "around a compiled base": around_compiled,
    "activation checkpoints": with_checkpoints,
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_a_wrapped_model_gives_the_adapter_of_the_plain_one(wrapping: str) -> None:
    expected = read_model(zoo.live("all_patterns"))
    _, adapter, _ = load(
        WRAPPINGS[wrapping](zoo.live("all_patterns")),
        task="a",
        adapter_name=None,
        outside=Outside(),
    )
    assert adapter.source_digest == expected.source_digest
    assert adapter.remarks == expected.remarks


def test_a_model_trained_around_a_compiled_base_gives_plain_paths_in_its_config() -> None:
    targets = [f"_orig_mod.model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]
    config = zoo.peft.LoraConfig(r=2, target_modules=targets, task_type="CAUSAL_LM")
    model: Any = zoo.peft.get_peft_model(torch.compile(zoo.llama(), backend="eager"), config)
    zoo.scatter(model)
    adapter = read_model(model)
    assert adapter.config["target_modules"] == [name.removeprefix("_orig_mod.") for name in targets]
    plain = adapter.apply_to(zoo.llama())
    assert torch.allclose(zoo.logits(plain), zoo.logits(model), atol=1e-6)


@pytest.mark.parametrize("wrapping", ["around a compiled base", "activation checkpoints"])
def test_an_adapter_is_swapped_into_a_model_around_a_wrapped_one(wrapping: str) -> None:
    adapter = read_model(zoo.live("plain"))
    model = WRAPPINGS[wrapping](zoo.live("plain"))
    with torch.no_grad():
        for tensor in live_tensors(model, "default").values():
            tensor.zero_()
    swap(model, adapter)
    assert read_model(model).source_digest == adapter.source_digest


RENAMINGS: dict[str, Callable[[str], str]] = {
    "compiled model": lambda key: f"_orig_mod.{key}",
    "compiled base": lambda key: key.replace(PREFIX, f"{PREFIX}_orig_mod."),
    "data parallel": lambda key: f"module.{key}",
    "around data parallel": lambda key: key.replace(PREFIX, f"{PREFIX}module."),
    "FSDP": lambda key: key.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
    "checkpoints": lambda key: key.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
    "prefix twice": lambda key: PREFIX + key,
    "no prefix": lambda key: key.removeprefix(PREFIX),
}


@pytest.mark.parametrize("renaming", RENAMINGS)
def test_keys_of_wrapped_models_are_kept_and_plain_in_the_portable_form(
    renaming: str, copied: Copied
) -> None:
    source = copied("all_patterns")
    set_config(source, task_type="CAUSAL_LM")
    expected, _ = portable(read_place(source, outside=Outside()), base_model="org/base")
    content = load_file(source / TENSORS)
    renamed = {RENAMINGS[renaming](key): tensor for key, tensor in content.items()}
    save_file(renamed, source / TENSORS, metadata={"format": "pt"})
    adapter = read_place(source, outside=Outside())
    assert set(adapter.tensors) == set(renamed)
    assert any("PeftModel.from_pretrained does not load it" in text for text in adapter.remarks)
    form, notes = portable(adapter, base_model="org/base")
    assert set(form.tensors) == set(expected.tensors)
    assert all(torch.equal(form.tensors[key], expected.tensors[key]) for key in form.tensors)
    assert json.loads(form.config_bytes) == json.loads(expected.config_bytes)
    assert any("keys are as PEFT gives them" in note for note in notes)
    assert torch.equal(
        zoo.logits(adapter.apply_to(zoo.llama())), zoo.logits(zoo.live("all_patterns"))
    )


class Holder(torch.nn.Module):
    """A model that calls a part of it as wrappers call what they wrap."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, zoo.llama())

    def forward(self, **inputs: Any) -> Any:
        return getattr(self, self.name)(**inputs)


@pytest.mark.parametrize("task_type", [None, "FEATURE_EXTRACTION"])
@pytest.mark.parametrize("name", ["module", "base_model"])
@pytest.mark.parametrize("is_regex", [False, True])
def test_a_name_that_wrappers_use_may_be_the_models_own(
    name: str, task_type: str | None, is_regex: bool, tmp_path: Path
) -> None:
    targets = rf"{name}\..*\.[qv]_proj" if is_regex else zoo.ATTENTION
    config = zoo.peft.LoraConfig(r=2, target_modules=targets, task_type=task_type)
    model: Any = zoo.peft.get_peft_model(Holder(name), config)
    zoo.scatter(model)
    model.save_pretrained(tmp_path)
    expected = zoo.logits(model)
    for adapter in (read_model(model), read_place(tmp_path, outside=Outside())):
        form, _ = portable(adapter, base_model="org/base")
        assert set(form.tensors) == set(adapter.tensors)
        assert not any("in a wrapped model" in text for text in adapter.remarks)
        assert torch.equal(zoo.logits(adapter.apply_to(Holder(name))), expected)
        assert torch.allclose(zoo.logits(form.apply_to(Holder(name))), expected, atol=1e-5)
        again: Any = zoo.peft.get_peft_model(Holder(name), config)
        swap(again, adapter)
        assert torch.equal(zoo.logits(again), expected)


def test_a_path_that_may_be_a_wrappers_is_remarked(copied: Copied) -> None:
    source = copied("plain")
    set_config(source, task_type="SEQ_CLS")
    content = load_file(source / TENSORS)
    renamed = {key.replace(PREFIX, f"{PREFIX}module."): value for key, value in content.items()}
    save_file(renamed, source / TENSORS, metadata={"format": "pt"})
    adapter = read_place(source, outside=Outside())
    assert any("taken for the base model's own" in text for text in adapter.remarks)
    form, _ = portable(adapter, base_model="org/base")
    assert set(form.tensors) == set(renamed)


def test_two_keys_of_one_tensor_have_no_portable_form(copied: Copied) -> None:
    source = copied("plain")
    set_tensors(
        source,
        lambda tensors: tensors.update(
            {f"module.{key}": tensor.clone() for key, tensor in tensors.items()}
        ),
    )
    adapter = read_place(source, outside=Outside())
    with pytest.raises(RefusedError, match="two are of one tensor"):
        portable(adapter, base_model="org/base")


def own_adapter(name: str = "mine") -> Any:
    model: Any = zoo.llama()
    config = zoo.peft.LoraConfig(r=4, lora_alpha=6, target_modules=zoo.ATTENTION)
    model.add_adapter(config, adapter_name=name)
    zoo.scatter(model)
    return model


def test_a_model_of_transformers_that_holds_an_adapter_is_read(tmp_path: Path) -> None:
    model = own_adapter()
    model.save_pretrained(tmp_path)
    _, adapter, _ = load(model, task="a", adapter_name=None, outside=Outside())
    expected = read_place(tmp_path, outside=Outside())
    assert adapter.layout == expected.layout
    assert all(torch.equal(adapter.tensors[key], expected.tensors[key]) for key in expected.tensors)
    assert torch.equal(zoo.logits(adapter.apply_to(zoo.llama())), zoo.logits(model))


def test_a_model_of_transformers_with_several_adapters_asks_which() -> None:
    model = own_adapter()
    config = zoo.peft.LoraConfig(r=2, target_modules=["k_proj"])
    model.add_adapter(config, adapter_name="second")
    zoo.scatter(model)
    assert len(read_model(model).layout.factors) == 2
    assert len(read_model(model, adapter_name="mine").layout.factors) == 4
    model.set_adapter(["mine", "second"])
    with pytest.raises(InvalidInputError, match=r"adapters mine, second, expected one"):
        read_model(model)
    model.delete_adapter(["mine", "second"])
    with pytest.raises(InvalidInputError):
        load(model, task="a", adapter_name=None, outside=Outside())


def test_a_mixed_model_gives_its_lora_adapter() -> None:
    expected = read_model(zoo.live("rslora"))
    model = zoo.peft.get_peft_model(zoo.llama(), zoo.CASES["rslora"].config(), mixed=True)
    model.add_adapter("other", zoo.peft.LoHaConfig(r=2, target_modules=["k_proj"]))
    zoo.scatter(model)
    adapter = read_model(model, adapter_name="default")
    assert adapter.layout == expected.layout
    assert adapter.config == expected.config
    with pytest.raises(RefusedError, match="peft_type is 'LOHA'"):
        read_model(model, adapter_name="other")


def test_prompts_are_refused_by_their_type() -> None:
    config = zoo.peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(RefusedError, match="peft_type is 'PROMPT_TUNING'"):
        read_model(zoo.peft.get_peft_model(zoo.llama(), config))


def test_tensors_without_values_are_named() -> None:
    with torch.device("meta"):
        model = zoo.peft.get_peft_model(zoo.llama(), zoo.CASES["plain"].config())
    with pytest.raises(InvalidInputError, match=r"lora_A\.weight' is on the meta device"):
        read_model(model)


def test_an_ungathered_shard_of_rows_is_named(copied: Copied) -> None:
    source = copied("plain")
    set_tensors(
        source,
        lambda tensors: tensors.update(
            {key: value[:2].clone() for key, value in tensors.items() if "lora_A" in key}
        ),
    )
    with pytest.raises(InvalidInputError, match="an ungathered shard"):
        read_place(source, outside=Outside())
