"""What the hint of a refusal says, done to the letter: the adapter is then read as it was meant."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

from share_registry.errors import RefusedError, ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.peft_model import read_model
from share_registry.exchange.portable import portable
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.edits import CONFIG, TENSORS, Q, set_config, set_tensors
from tests.exchange.zoo import peft

Copied = Callable[[str], Path]
# PEFT tells of what it converts and how
pytestmark = pytest.mark.filterwarnings("ignore")
ROUNDING: Final = 1e-4
"""Sums of float32 in another order, relative to what an adapter changes."""
CONVERTED: Final = 2e-2
"""What PEFT's converter leaves out of dW at rank=0.9999, a share of its squares."""


def read(source: Path) -> Adapter:
    return read_place(source, outside=Outside())


def hint(source: Path) -> str:
    with pytest.raises(ShareRegistryError) as caught:
        read(source)
    assert caught.value.hint
    return caught.value.hint


def load(directory: Path) -> Any:
    return peft.PeftModel.from_pretrained(zoo.llama(), str(directory)).eval()


def check_close(adapter: Adapter, expected: torch.Tensor, *, tolerance: float = ROUNDING) -> None:
    change = (expected - zoo.logits(zoo.llama())).norm()
    assert change > 0.01 * expected.norm()
    actual = zoo.logits(adapter.apply_to(zoo.llama()))
    assert float((actual - expected).norm()) <= tolerance * float(change)


def trained(config: Any) -> Any:
    model = peft.get_peft_model(zoo.llama(), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


# Types whose layers PEFT converts, with options for modules as narrow as these.
CONVERTIBLE: Final[dict[str, dict[str, Any]]] = {
    "C3A": {"block_size": 8},
    "DELORA": {},
    "FOURIERFT": {"n_frequency": 20},
    "GRALORA": {},
    "LOHA": {},
    "LOKR": {},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "RANDLORA": {},
    "TINYLORA": {},
    "UNILORA": {},
    "VBLORA": {"vector_length": 8, "num_vectors": 16},
    "VERA": {"r": 4},
    "WAVEFT": {"n_frequency": 20},
    "LORA": {"use_qalora": True, "qalora_group_size": 4},
}


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_what_peft_converts_is_converted_by_it(name: str, tmp_path: Path) -> None:
    kind = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[name]
    model = trained(kind(target_modules=zoo.ATTENTION, **CONVERTIBLE[name]))
    source = zoo.save(model, tmp_path / "saved")
    assert "peft.save_as_lora(directory, model, rank=0.9999)" in hint(source)
    peft.save_as_lora(tmp_path / "converted", load(source), rank=0.9999)
    check_close(read(tmp_path / "converted"), zoo.logits(load(source)), tolerance=CONVERTED)


UNCONVERTIBLE: Final[dict[str, dict[str, Any]]] = {
    "ADALORA": {"target_modules": zoo.ATTENTION, "total_step": 10},
    "IA3": {"target_modules": ["v_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "OFT": {"target_modules": zoo.ATTENTION, "oft_block_size": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 2, "task_type": "CAUSAL_LM"},
    "LORA": {"r": 4, "target_modules": ["q_proj"], "kasa_config": peft.KasaConfig()},
}


@pytest.mark.parametrize("name", UNCONVERTIBLE)
def test_what_peft_does_not_convert_is_to_be_trained_again(name: str, tmp_path: Path) -> None:
    kind = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[name]
    model = peft.get_peft_model(zoo.llama(), kind(**UNCONVERTIBLE[name]))
    assert re.search("PEFT converts no .* train", hint(zoo.save(model, tmp_path / "saved")))
    with pytest.raises(TypeError, match=r"supports? LoRA conversion"):
        peft.save_as_lora(tmp_path / "converted", model, rank=0.9999)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "OLoRA"])
def test_a_rewritten_base_model_is_subtracted(start: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=4, target_modules=zoo.ATTENTION, init_lora_weights=start)
    torch.manual_seed(1)
    model = peft.get_peft_model(zoo.llama(), config)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "before")
    model.peft_config["default"].init_lora_weights = start
    zoo.scatter(model.eval())
    assert "path_initial_model_for_weight_conversion" in hint(zoo.save(model, tmp_path / "saved"))
    expected = zoo.logits(model)
    model.save_pretrained(
        tmp_path / "after", path_initial_model_for_weight_conversion=tmp_path / "before"
    )
    check_close(read(tmp_path / "after"), expected)


def test_a_rewritten_base_model_is_named_instead_of_its_start(tmp_path: Path) -> None:
    model = zoo.live("rslora")
    with torch.no_grad():
        model.get_base_model().lm_head.weight.mul_(1.5)
    expected = zoo.logits(model)
    source = zoo.save(model, tmp_path / "saved")
    set_config(source, init_lora_weights="loftq", loftq_config={"loftq_bits": 4})
    assert "model.unload().save_pretrained" in hint(source)
    model.unload().save_pretrained(tmp_path / "rewritten")
    base = tmp_path / "rewritten"
    set_config(source, base_model_name_or_path=str(base), init_lora_weights=True)
    rewritten: Any = zoo.LlamaForCausalLM.from_pretrained(base)
    actual = zoo.logits(read(source).apply_to(rewritten))
    assert (actual - expected).norm() <= ROUNDING * expected.norm()


# What a config says -> what its hint says, and the field as the hint wants it.
CORRECTED: Final[dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]]] = {
    "type": ("plain", {"peft_type": "lora"}, "write 'LORA'", {"peft_type": "LORA"}),
    "library": (
        "plain",
        {"auto_mapping": {"parent_library": 3}},
        "Set auto_mapping to null",
        {"auto_mapping": None},
    ),
    "start": (
        "plain",
        {"init_lora_weights": "novel"},
        "set init_lora_weights to true",
        {"init_lora_weights": True},
    ),
    "rank": ("plain", {"r": 5}, "Correct r or rank_pattern", {"r": 4}),
    "pattern": (
        "alpha_pattern",
        {"alpha_pattern": {r"(layers)\.\d+\.(?!\1)self_attn\.q_proj": 32, "o_proj": 1.5}},
        "Write the module paths out.",
        {
            "alpha_pattern": {
                "model.layers.0.self_attn.q_proj": 32,
                "model.layers.1.self_attn.q_proj": 32,
                "o_proj": 1.5,
            }
        },
    ),
    "magnitudes": ("dora", {"use_dora": None}, 'Set "use_dora": true', {"use_dora": True}),
    "scale": ("plain", {"lora_alpha": None}, "Correct the config", {"lora_alpha": 6}),
}


@pytest.mark.parametrize("field", CORRECTED)
def test_a_config_is_corrected(field: str, copied: Copied) -> None:
    case, wrong, text, right = CORRECTED[field]
    source = copied(case)
    expected = zoo.logits(zoo.live(case))
    set_config(source, **wrong)
    assert text in hint(source)
    set_config(source, **right)
    check_close(read(source), expected)


def test_a_pickle_is_saved_again_by_peft(copied: Copied, tmp_path: Path) -> None:
    source = copied("plain")
    torch.save(load_file(source / TENSORS), source / "adapter_model.bin")
    (source / TENSORS).unlink()
    said = hint(source)
    assert "read it as such with format='peft-bin'; or load it with PEFT and call save" in said
    load(source).save_pretrained(tmp_path / "again")
    check_close(read(tmp_path / "again"), zoo.logits(zoo.live("plain")))


def test_a_dump_of_a_training_state_is_saved_by_peft(copied: Copied, tmp_path: Path) -> None:
    source, model = copied("plain"), zoo.live("plain")
    dump = {key: value for key, value in model.state_dict().items() if "lora_" in key}
    save_file(dump, source / TENSORS, metadata={"format": "pt"})
    assert "Save the adapter with PeftModel.save_pretrained" in hint(source)
    model.save_pretrained(tmp_path / "again")
    check_close(read(tmp_path / "again"), zoo.logits(model))


def test_shards_are_joined(copied: Copied) -> None:
    source = copied("plain")
    tensors = load_file(source / TENSORS)
    (source / TENSORS).unlink()
    names = [f"adapter_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name, side in zip(names, "AB", strict=True):
        shard = {key: tensor for key, tensor in tensors.items() if f"lora_{side}" in key}
        save_file(shard, source / name, metadata={"format": "pt"})
    assert hint(source) == "Join the shards into one file."
    joined = load_file(source / names[0]) | load_file(source / names[1])
    save_file(joined, source / TENSORS, metadata={"format": "pt"})
    check_close(read(source), zoo.logits(zoo.live("plain")))


@pytest.mark.parametrize("place", ["file", "folders"])
def test_the_directory_named_is_an_adapter(place: str, copied: Copied, tmp_path: Path) -> None:
    source = copied("plain")
    wrong = source / TENSORS
    if place == "folders":
        wrong = tmp_path / "run"
        for step in (500, 1000):
            shutil.copytree(source, wrong / f"checkpoint-{step}")
    named = re.search(r"Give (?:the directory|one of them), (?:such as )?(.*)\.$", hint(wrong))
    assert named
    check_close(read(Path(named[1])), zoo.logits(zoo.live("plain")))


def test_a_directory_of_links_is_copied(copied: Copied, tmp_path: Path) -> None:
    source = copied("plain")
    (tmp_path / "cache").mkdir()
    (tmp_path / "blob").write_bytes((source / TENSORS).read_bytes())
    shutil.copy(source / CONFIG, tmp_path / "cache")
    (tmp_path / "cache" / TENSORS).symlink_to(tmp_path / "blob")
    command = re.search(r"\((cp .*?)\)", hint(tmp_path / "cache"))
    assert command
    subprocess.run([*command[1].split(), tmp_path / "cache", tmp_path / "copy"], check=True)
    check_close(read(tmp_path / "copy"), zoo.logits(zoo.live("plain")))


def test_keys_of_two_wrappings_are_saved_again_by_peft(copied: Copied, tmp_path: Path) -> None:
    source, model = copied("plain"), zoo.live("plain")
    set_tensors(
        source,
        lambda tensors: tensors.update({f"module.{k}": t.clone() for k, t in tensors.items()}),
    )
    with pytest.raises(RefusedError) as caught:
        portable(read(source), base_model="org/base")
    assert "Save the adapter with PeftModel.save_pretrained" in str(caught.value.hint)
    model.save_pretrained(tmp_path / "again")
    portable(read(tmp_path / "again"), base_model="org/base")


def test_what_has_no_portable_form_is_exported_natively(original: Copied, tmp_path: Path) -> None:
    adapter = read(original("dora"))
    with pytest.raises(RefusedError) as caught:
        portable(adapter, base_model="org/base")
    assert caught.value.hint.startswith("Export it with profile='native'")
    check_close(read(adapter.save(tmp_path / "native")), zoo.logits(zoo.live("dora")))


def test_one_of_several_adapters_is_named() -> None:
    model = zoo.live("plain")
    model.add_adapter("second", zoo.CASES["rslora"].config())
    model.base_model.set_adapter(["default", "second"])
    with pytest.raises(ShareRegistryError) as caught:
        read_model(model)
    assert caught.value.hint == "Pass adapter_name."
    assert Q in str(read_model(model, adapter_name="default").tensors.keys())
    assert json.loads(read_model(model, adapter_name="second").config_bytes)["use_rslora"]
