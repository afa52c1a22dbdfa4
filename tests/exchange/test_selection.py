"""What a config selects, and the rank and scale of it, where names alone would mislead."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from share_registry.algebra.merge_methods import MergeRule
from share_registry.errors import InvalidInputError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.merged_adapter import WeightedAdapter, merge_adapters
from share_registry.exchange.portable import portable
from share_registry.exchange.selection import layout_roles
from share_registry.outside.files import Outside
from tests.exchange import peft_configs, zoo
from tests.exchange.edits import CONFIG, TENSORS, set_config
from tests.exchange.zoo import peft

Copied = Callable[[str], Path]
CLOSE = 1e-6
PREFIX = "base_model.model."


def read(directory: Path) -> Adapter:
    return read_place(directory, outside=Outside())


def roles(adapter: Adapter) -> dict[str, tuple[str, int, float]]:
    """Return parameter, rank and scale of every factor pair."""
    return {
        factor.module: (role.parameter, role.rank, role.scale)
        for factor, role in zip(
            adapter.layout.factors, layout_roles(adapter.config, adapter.layout), strict=True
        )
    }


def per_expert(directory: Path) -> Path:
    """Write an adapter of Mixtral as PEFT on transformers 4 saved it: a pair for each expert."""
    sizes = {"w1": (16, 24), "w3": (16, 24), "w2": (24, 16)}
    paths = {f"self_attn.{name}": (16, 16) for name in ("q_proj", "o_proj")} | {
        f"block_sparse_moe.experts.{expert}.{name}": size
        for expert in range(4)
        for name, size in sizes.items()
    }
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for layer in range(2):
        for path, (width, out) in paths.items():
            module = f"{PREFIX}model.layers.{layer}.{path}"
            for side, shape in (("A", (4, width)), ("B", (out, 4))):
                drawn = torch.randn(shape, generator=generator) * 0.2
                tensors[f"{module}.lora_{side}.weight"] = drawn
    directory.mkdir()
    save_file(tensors, directory / TENSORS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "o_proj", "w1", "w2", "w3"],
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": "org/mixtral",
    }
    (directory / CONFIG).write_text(json.dumps(config))
    return directory


@pytest.mark.filterwarnings("ignore")
def test_experts_saved_again_by_another_release_have_the_ranks_that_fit_their_shapes(
    tmp_path: Path,
) -> None:
    model = peft_configs.load("experts", per_expert(tmp_path / "old"))
    expected = peft_configs.logits(model, "experts")
    zoo.save(model.float(), tmp_path / "new")
    config = json.loads((tmp_path / "new" / CONFIG).read_bytes())
    assert "." not in "".join(config["target_parameters"])
    adapter = read(tmp_path / "new")
    experts = "model.layers.0.mlp.experts"
    assert roles(adapter)[experts] == ("down_proj", 4, 2.0)
    assert roles(adapter)[f"{experts}.base_layer"] == ("gate_up_proj", 8, 2.0)
    assert roles(adapter)["model.layers.0.self_attn.q_proj"] == ("", 4, 2.0)
    saved = portable(adapter, base_model="org/mixtral")[0].save(tmp_path / "portable")
    actual = peft_configs.logits(peft_configs.load("experts", saved), "experts")
    assert (actual - expected).norm() <= CLOSE * expected.norm()


NARROWED: dict[str, dict[str, Any]] = {
    "a list": {"target_modules": ["q_proj"]},
    "an expression": {"target_modules": r".*\.q_proj"},
    "excluded": {"exclude_modules": ["v_proj"]},
    "excluded by an expression": {"exclude_modules": r".*v_proj"},
    "trained whole": {"modules_to_save": ["v_proj"]},
}


@pytest.mark.parametrize("way", NARROWED)
def test_factors_that_the_config_does_not_select_are_no_part_of_the_function(
    way: str, copied: Copied
) -> None:
    source = copied("rslora")
    set_config(source, **NARROWED[way])
    adapter = read(source)
    assert any(
        "does not select model.layers.0.self_attn.v_proj" in note for note in adapter.remarks
    )
    assert {pair.module: pair.scale for pair in adapter.factor_pairs()} == {
        f"model.layers.{layer}.self_attn.{name}_proj": 3.0 if name == "q" else 0.0
        for layer in range(2)
        for name in "qv"
    }
    form, notes = portable(adapter, base_model="org/base")
    assert any("left out" in note for note in notes)
    assert {key.split(".")[6] for key in form.tensors} == {"q_proj"}


def test_layers_that_are_not_listed_are_no_part_of_the_function(copied: Copied) -> None:
    source = copied("rslora")
    set_config(source, layers_to_transform=[1], layers_pattern="layers")
    scales = {pair.module: pair.scale for pair in read(source).factor_pairs()}
    assert {module.split(".")[2] for module, scale in scales.items() if scale} == {"1"}


@pytest.mark.parametrize(
    "expression", [r"(.*a*)*b", ".*?o" * 5 + "x|q_proj", ".{0,99}o" * 5 + "x", "[|].*" * 5]
)
def test_an_expression_that_could_run_for_ever_is_evaluated_as_peft_does(
    expression: str, copied: Copied
) -> None:
    source = copied("rslora")
    set_config(source, target_modules=expression)
    adapter = read(source)
    assert not any("unbounded work" in note for note in adapter.remarks)
    assert not any(pair.scale for pair in adapter.factor_pairs())


@pytest.mark.parametrize("expression", [r"(.)\1.*", "(?>.*)", "(?:" * 60 + ".*" + ")" * 60])
def test_an_expression_that_takes_unbounded_work_is_not_evaluated(
    expression: str, copied: Copied
) -> None:
    source = copied("rslora")
    set_config(source, target_modules=expression)
    adapter = read(source)
    assert any("unbounded work" in note for note in adapter.remarks)
    assert all(pair.scale for pair in adapter.factor_pairs())


def test_the_branches_of_an_expression_count_one_by_one(copied: Copied) -> None:
    source = copied("rslora")
    set_config(source, target_modules=r".*0\..*\(?.*[|].*|.*1\..*\.v_.*")
    adapter = read(source)
    assert not any("unbounded work" in note for note in adapter.remarks)
    assert [pair.module for pair in adapter.factor_pairs() if pair.scale] == [
        "model.layers.1.self_attn.v_proj"
    ]


def test_a_module_of_the_model_may_be_called_base_layer(tmp_path: Path) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = torch.nn.ModuleDict({"base_layer": torch.nn.Linear(4, 4)})

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.encoder["base_layer"](x)  # type: ignore[no-any-return]

    torch.manual_seed(2)
    base = Net()
    config = peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=["base_layer"], rank_pattern={"encoder.base_layer": 3}
    )
    model = peft.get_peft_model(base, config)
    zoo.scatter(model)
    zoo.save(model, tmp_path / "made")
    set_config(tmp_path / "made", auto_mapping=None)
    adapter = read(tmp_path / "made")
    assert roles(adapter) == {"encoder.base_layer": ("", 3, 1.0)}
    form, _ = portable(adapter, base_model="org/base")
    assert form.config["target_modules"] == ["base_layer"]


def test_modules_to_save_without_a_tensor_are_remarked(copied: Copied) -> None:
    source = copied("plain")
    set_config(source, modules_to_save=["lm_head"])
    assert any("modules_to_save names lm_head" in note for note in read(source).remarks)
    heads = read(copied("classifier")).remarks
    assert not any("modules_to_save names" in note for note in heads)


def test_a_tensor_emptied_by_a_sharded_save_is_refused(copied: Copied) -> None:
    source = copied("modules_to_save")
    tensors = load_file(source / TENSORS) | {f"{PREFIX}lm_head.weight": torch.empty(0)}
    save_file(tensors, source / TENSORS, metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"lm_head.weight' has shape \[0\].*ungathered"):
        read(source)


def test_magnitudes_without_use_dora_are_refused(copied: Copied) -> None:
    source = copied("dora")
    set_config(source, use_dora=False)
    with pytest.raises(InvalidInputError, match="does not say use_dora") as caught:
        read(source)
    assert caught.value.hint is not None
    assert '"use_dora": true' in caught.value.hint


@pytest.mark.parametrize(
    ("label", "is_remarked"), [(None, True), ("org/Qwen2-7B", True), ("org/llama", False)]
)
def test_an_export_of_torchtune_is_remarked_where_it_may_be_of_qwen(
    label: str | None, is_remarked: bool, copied: Copied
) -> None:
    source = copied("plain")
    fields = {"r": 4, "lora_alpha": 16, "target_modules": zoo.MLP, "peft_type": "LORA"}
    path = {} if label is None else {"base_model_name_or_path": label}
    (source / CONFIG).write_text(json.dumps(fields | path))
    assert any("torchtune" in note for note in read(source).remarks) is is_remarked


@pytest.mark.filterwarnings("ignore")
def test_two_key_layouts_of_a_vision_language_model_merge_as_one(tmp_path: Path) -> None:
    config = peft.LoraConfig(
        r=2, target_modules=r".*language_model.*q_proj", task_type="FEATURE_EXTRACTION"
    )
    model = peft.get_peft_model(peft_configs.fresh("vision-language"), config)
    zoo.scatter(model)
    zoo.save(model.float(), tmp_path / "new")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / CONFIG).write_bytes((tmp_path / "new" / CONFIG).read_bytes())
    tensors = load_file(tmp_path / "new" / TENSORS)
    later, earlier = f"{PREFIX}model.language_model.", f"{PREFIX}language_model.model."
    renamed = {key.replace(later, earlier): tensor for key, tensor in tensors.items()}
    save_file(renamed, tmp_path / "old" / TENSORS, metadata={"format": "pt"})
    outputs = [
        peft_configs.logits(
            peft_configs.load("vision-language", tmp_path / name), "vision-language"
        )
        for name in ("old", "new")
    ]
    assert torch.equal(*outputs)
    parts = [
        WeightedAdapter(ref=name, adapter=read(tmp_path / name), weight=0.5)
        for name in ("old", "new")
    ]
    merged = merge_adapters(parts, MergeRule(method="linear"))
    assert any("later key layout" in remark for remark in merged.remarks)
    assert set(merged.tensors) == set(tensors)
    applied = merged.apply_to(peft_configs.fresh("vision-language"))
    actual = peft_configs.logits(applied, "vision-language")
    assert (actual - outputs[1]).norm() <= CLOSE * outputs[1].norm()


OLD = "language_model.model.layers"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "fields",
    [
        {"alpha_pattern": {f"{OLD}.0.self_attn.q_proj": 32}},
        {"target_modules": r"language_model\.model\.layers\.\d\.self_attn\.q_proj"},
        {"target_modules": [f"{OLD}.{layer}.self_attn.q_proj" for layer in (0, 1)]},
    ],
    ids=["pattern", "expression", "paths"],
)
def test_a_part_of_a_merge_keeps_the_scales_that_its_config_gives_its_own_names(
    fields: dict[str, object], tmp_path: Path
) -> None:
    config = peft.LoraConfig(
        r=2, target_modules=r".*language_model.*q_proj", task_type="FEATURE_EXTRACTION"
    )
    model = peft.get_peft_model(peft_configs.fresh("vision-language"), config)
    zoo.scatter(model)
    new = zoo.save(model.float(), tmp_path / "new")
    old = tmp_path / "old"
    old.mkdir()
    (old / CONFIG).write_text(json.dumps(json.loads((new / CONFIG).read_bytes()) | fields))
    tensors = load_file(new / TENSORS)
    later, earlier = f"{PREFIX}model.language_model.", f"{PREFIX}language_model.model."
    renamed = {key.replace(later, earlier): -tensor for key, tensor in tensors.items()}
    save_file(renamed, old / TENSORS, metadata={"format": "pt"})
    parts = [
        WeightedAdapter(ref=path.name, adapter=read(path), weight=weight)
        for path, weight in ((old, 0.75), (new, 0.25))
    ]
    merged = merge_adapters(parts, MergeRule(method="linear"))
    expected = [
        sum(
            part.weight * pair.scale * pair.b.double().T @ pair.a.double()
            for part in parts
            for pair in part.adapter.factor_pairs()
            if pair.module.split("layers")[1] == module.module.split("layers")[1]
        )
        for module in merged.factor_pairs()
    ]
    for pair, update in zip(merged.factor_pairs(), expected, strict=True):
        actual = pair.scale * pair.b.double().T @ pair.a.double()
        assert (actual - update).norm() <= 1e-5 * torch.as_tensor(update).norm()


def test_a_head_that_one_parent_of_a_merge_has_is_said_to_be_its_own(copied: Copied) -> None:
    headed = read(copied("modules_to_save"))
    bare = read(copied("rslora"))
    parts = [
        WeightedAdapter(ref=name, adapter=adapter, weight=0.5)
        for name, adapter in (("headed", headed), ("bare", bare))
    ]
    merged = merge_adapters(parts, MergeRule(method="linear"))
    head = f"{PREFIX}lm_head.weight"
    assert torch.equal(merged.tensors[head], headed.tensors[head])
    assert any("taken from headed alone" in remark for remark in merged.remarks)
