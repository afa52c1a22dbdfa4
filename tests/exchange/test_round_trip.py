"""What PEFT saved comes back.

The same bytes natively, the same function portably, the scales that PEFT itself uses.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from share_registry.errors import RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import CardFacts, files_of, place
from share_registry.exchange.export_form import Profile
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.selection import module_scales
from share_registry.exchange.tensors import pairs_of, tensors_of
from share_registry.format.layout import Form
from share_registry.outside.files import Outside
from tests.exchange import zoo

Original = Callable[[str], Path]
PORTABLE = sorted(name for name, case in zoo.CASES.items() if case.portable)
CARD = CardFacts(
    base_model="org/base",
    ref="base/cola@v1",
    commit_number=2,
    commit_id="ab" * 32,
    error=0.0,
    budget=0.0,
)
DELTA = 1e-6
"""PEFT multiplies A and B in float32."""


def exported(adapter: Adapter, directory: Path, profile: Profile = "native") -> Path:
    files, _ = files_of(adapter, profile=profile, card=CARD)
    return place(files, directory, "out", overwrite=False, outside=Outside())[0]


@pytest.mark.parametrize("name", zoo.CASES)
def test_native_export_gives_back_every_byte(name: str, original: Original, tmp_path: Path) -> None:
    source = original(name)
    adapter = read_place(source, outside=Outside())
    target = exported(adapter, tmp_path)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (target / file).read_bytes() == (source / file).read_bytes()
    assert (target / "README.source.md").read_bytes() == (source / "README.md").read_bytes()


@pytest.mark.parametrize("name", zoo.CASES)
def test_an_exported_directory_reads_as_the_same_adapter(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    again = read_place(exported(adapter, tmp_path), outside=Outside())
    assert again.source_digest == adapter.source_digest
    assert again.attachments == adapter.attachments
    assert again.layout == adapter.layout


@pytest.mark.parametrize("name", zoo.CASES)
def test_packing_undoes_unpacking(name: str, original: Original) -> None:
    adapter = read_place(original(name), outside=Outside())
    pairs = pairs_of(adapter.layout, adapter.tensors, module_scales(adapter.config, adapter.layout))
    packed = tensors_of(adapter.layout, [(pair.a, pair.b) for pair in pairs])
    assert set(packed) | set(adapter.passengers) == set(adapter.tensors)
    for key, tensor in packed.items():
        assert tensor.dtype == adapter.tensors[key].dtype
        assert torch.equal(tensor, adapter.tensors[key])


@pytest.mark.parametrize("name", zoo.CASES)
def test_scales_and_products_are_those_of_peft(name: str, original: Original) -> None:
    adapter = read_place(original(name), outside=Outside())
    scales = module_scales(adapter.config, adapter.layout)
    pairs = pairs_of(adapter.layout, adapter.tensors, scales)
    model = (
        zoo.live(name) if zoo.CASES[name].dtype == torch.float32 else zoo.load(name, original(name))
    )
    modules = dict(model.base_model.model.named_modules())
    position = 0
    for factor in adapter.layout.factors:
        own = pairs[position : position + factor.experts]
        position += factor.experts
        layer = modules[factor.module]
        assert all(pair.scale == pytest.approx(layer.scaling["default"], rel=1e-15) for pair in own)
        if not name.startswith("monteclora"):
            check_product(layer, factor.form, own)
    assert position == len(pairs)


def check_product(layer: Any, form: Form, own: list[Any]) -> None:
    delta = layer.get_delta_weight("default").detach().double()
    product = torch.stack([pair.scale * pair.b.T @ pair.a for pair in own])
    if form is Form.CONV:
        delta = delta.reshape(delta.shape[0], -1)
    if form is Form.EMBEDDING or getattr(layer, "fan_in_fan_out", False):
        delta = delta.T
    decoded = product if form is Form.EXPERTS else product[0]
    assert torch.allclose(decoded, delta, atol=DELTA)


@pytest.mark.parametrize("name", sorted(set(zoo.CASES) - {"bf16", "fp16"}))
def test_peft_loads_a_native_export_to_the_same_function(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    target = exported(adapter, tmp_path)
    actual, expected = zoo.logits(zoo.load(name, target)), zoo.logits(zoo.live(name))
    assert float((actual - expected).abs().max()) == zoo.EXACT


@pytest.mark.parametrize("name", PORTABLE)
def test_the_portable_form_is_the_same_function(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    target = exported(adapter, tmp_path, "portable")
    reference = zoo.logits(zoo.load(name, original(name)))
    difference = float((zoo.logits(zoo.load(name, target)) - reference).abs().max())
    folded = {
        torch.float32: zoo.PORTABLE,
        torch.float16: zoo.PORTABLE,
        torch.bfloat16: zoo.PORTABLE,
    }  # the scale is 2: folding is exact in any of them
    assert difference <= folded[zoo.CASES[name].dtype]
    assert difference < float((reference - zoo.logits(zoo.CASES[name].base())).abs().max()) / 100


@pytest.mark.parametrize("name", PORTABLE)
def test_the_portable_config_leaves_nothing_to_interpret(
    name: str, original: Original, tmp_path: Path
) -> None:
    adapter = read_place(original(name), outside=Outside())
    config = json.loads(
        (exported(adapter, tmp_path, "portable") / "adapter_config.json").read_bytes()
    )
    assert config["lora_alpha"] == config["r"] == (16 if name == "rank_pattern" else 8)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert not {
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "layers_to_transform",
        "exclude_modules",
    } & set(config)


@pytest.mark.parametrize("name", sorted(set(zoo.CASES) - set(PORTABLE)))
def test_what_has_no_portable_form_is_refused_in_one_sentence(
    name: str, original: Original
) -> None:
    adapter = read_place(original(name), outside=Outside())
    with pytest.raises(
        RefusedError, match=r"has no portable form: it has .*expected factor pairs alone"
    ) as caught:
        files_of(adapter, profile="portable", card=CARD)
    assert len(caught.value.message) < 240
    assert "native" in caught.value.hint


def test_a_local_base_path_does_not_leave_with_a_portable_export(copied: Original) -> None:
    source = copied("plain")
    config = json.loads((source / "adapter_config.json").read_bytes()) | {
        "base_model_name_or_path": "/home/ann/models/llama"
    }
    (source / "adapter_config.json").write_text(json.dumps(config))
    files, _ = files_of(read_place(source, outside=Outside()), profile="portable", card=CARD)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "org/base"


def test_the_portable_form_keeps_the_element_type(original: Original) -> None:
    for name in ("bf16", "fp16"):
        adapter = read_place(original(name), outside=Outside())
        files, _ = files_of(adapter, profile="portable", card=CARD)
        assert files["adapter_model.safetensors"].count(
            b'"BF16"' if name == "bf16" else b'"F16"'
        ) == len(adapter.tensors)


def test_folding_that_overflows_half_precision_is_refused(copied: Original) -> None:
    source = copied("fp16")
    config = json.loads((source / "adapter_config.json").read_bytes()) | {"lora_alpha": 8_000_000}
    (source / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(
        RefusedError,
        match=r"lora_B.weight' would be infinite at .* places: F16 holds at most 65504",
    ):
        files_of(read_place(source, outside=Outside()), profile="portable", card=CARD)
