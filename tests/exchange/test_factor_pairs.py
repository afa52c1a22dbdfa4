"""Pairs: unpacking and packing are inverse for every form, and scales follow PEFT's own rule."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from share_registry.errors import RefusedError
from share_registry.exchange.config import Settings, settings_of
from share_registry.exchange.selection import Role, ambiguous, module_scales, roles_of
from share_registry.exchange.tensors import pairs_of, tensors_of
from share_registry.format.layout import DType, FactorSpec, Form, Layout, TensorSpec
from tests.exchange.zoo import peft

SIZES = st.integers(1, 5)


def layout_of(form: Form, rank: int, out: int, width: int, experts: int, dtype: DType) -> Layout:
    tail = [2, 1] if form is Form.CONV else []
    a = TensorSpec(key="a", dtype=dtype, shape=[rank * experts, width, *tail])
    b = TensorSpec(key="b", dtype=dtype, shape=[out, rank * experts, *[1 for _ in tail]])
    layout = Layout(
        metadata=[],
        tensors=[a, b],
        factors=[FactorSpec(module="m", form=form, a=0, b=1, experts=experts)],
    )
    layout.check()
    return layout


@given(
    form=st.sampled_from(Form),
    rank=SIZES,
    out=SIZES,
    width=SIZES,
    experts=SIZES,
    dtype=st.sampled_from([DType.F32, DType.BF16, DType.F16]),
)
@settings(deadline=None)
def test_packing_undoes_unpacking_for_every_form(
    form: Form, rank: int, out: int, width: int, experts: int, dtype: DType
) -> None:
    experts = experts if form is Form.EXPERTS else 1
    layout = layout_of(form, rank, out, width, experts, dtype)
    torch.manual_seed(rank)
    kinds = {DType.F32: torch.float32, DType.BF16: torch.bfloat16, DType.F16: torch.float16}
    tensors = {spec.key: torch.randn(spec.shape).to(kinds[dtype]) for spec in layout.tensors}
    pairs = pairs_of(layout, tensors, [0.5] * experts)
    assert [pair.module for pair in pairs] == [shape.module for shape in layout.modules()]
    assert all(
        pair.a.shape == (shape.rank, shape.in_) and pair.b.shape == (shape.rank, shape.out)
        for pair, shape in zip(pairs, layout.modules(), strict=True)
    )
    packed = tensors_of(layout, [(pair.a, pair.b) for pair in pairs])
    assert all(
        torch.equal(packed[key], tensors[key]) and packed[key].is_contiguous() for key in tensors
    )


def test_experts_lie_expert_major_in_a_and_rank_major_in_b() -> None:
    layout = layout_of(Form.EXPERTS, 2, 1, 1, 3, DType.F32)
    tensors = {"a": torch.arange(6.0).reshape(6, 1), "b": torch.arange(6.0).reshape(1, 6)}
    pairs = pairs_of(layout, tensors, [1.0] * 3)
    assert [pair.a.flatten().tolist() for pair in pairs] == [[0, 1], [2, 3], [4, 5]]
    assert [pair.b.flatten().tolist() for pair in pairs] == [[0, 3], [1, 4], [2, 5]]


def test_a_factor_left_out_leaves_both_its_tensors_out() -> None:
    layout = layout_of(Form.EXPERTS, 2, 3, 4, 2, DType.F32)
    assert tensors_of(layout, [None, None]) == {}


def test_a_value_too_large_for_the_element_type_is_refused_by_key() -> None:
    layout = layout_of(Form.LINEAR, 1, 2, 2, 1, DType.F16)
    with pytest.raises(
        RefusedError, match=r"'a' would be infinite at 1 of 2 places: F16 holds at most 65504"
    ):
        tensors_of(layout, [(torch.tensor([[7e4, 1.0]]), torch.ones(1, 2))])


def read_roles(settings_read: Settings, *modules: str) -> dict[str, Role]:
    """Return the roles of modules whose A has eight rows."""
    a = TensorSpec(key="a", dtype=DType.F32, shape=[8, 4])
    return roles_of(settings_read, dict.fromkeys(modules, a))


NAMES = [
    "q_proj",
    "v_proj",
    "layers.0.q_proj",
    r"layers.\d.v_proj",
    ".*",
    "layers.1.*",
    "k",
    "_proj",
    "layers.0.q.proj",
]
PATHS = [
    "q_proj",
    "layers.0.q_proj",
    "layers.1.q_proj",
    "layers.1.v_proj",
    "deep.layers.0.q_proj",
    "layers.0.my_q_proj",
]


@given(
    ranks=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 64)),
    alphas=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 64) | st.integers(0, 64)),
    path=st.sampled_from(PATHS),
    rslora=st.booleans(),
)
@settings(deadline=None)
def test_ranks_and_scales_follow_pefts_rule(
    ranks: dict[str, int], alphas: dict[str, float], path: str, rslora: bool
) -> None:
    from peft.utils.other import get_pattern_key

    settings_read = settings_of(
        {
            "r": 8,
            "lora_alpha": 12,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "use_rslora": rslora,
        }
    )
    rank = ranks.get(get_pattern_key(ranks.keys(), path), 8)
    alpha = alphas.get(get_pattern_key(alphas.keys(), path), 12)
    nested = f"{path}.base_layer.out_proj"
    roles = read_roles(settings_read, path, nested)
    assert roles[path].rank == roles[nested].rank == rank
    assert roles[path].scale == (alpha / math.sqrt(rank) if rslora else alpha / rank)


def test_the_first_pattern_in_file_order_counts() -> None:
    for order, scale in (
        (["q_proj", "layers.0.q_proj"], 1.0),
        (["layers.0.q_proj", "q_proj"], 4.0),
    ):
        values = {"q_proj": 8, "layers.0.q_proj": 32}
        settings_read = settings_of({"alpha_pattern": {name: values[name] for name in order}})
        roles = read_roles(settings_read, "layers.0.q_proj", "layers.1.q_proj")
        assert roles["layers.0.q_proj"].scale == scale
        assert ambiguous(settings_read, roles) == ["layers.0.q_proj"]


@pytest.mark.filterwarnings("ignore")
def test_overlapping_patterns_scale_as_peft_reloads_them(tmp_path: Any) -> None:
    from share_registry.exchange.importers.formats import read_place
    from share_registry.outside.files import Outside
    from tests.exchange import zoo

    base = zoo.llama()
    patterns = {"v_proj": 8, "layers.0.self_attn.v_proj": 32}
    model = peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=4,
            lora_alpha=4,
            target_modules=["v_proj"],
            alpha_pattern=patterns,
            task_type="CAUSAL_LM",
        ),
    )
    zoo.scatter(model)
    adapter = read_place(zoo.save(model, tmp_path / "saved"), outside=Outside())
    again = peft.PeftModel.from_pretrained(zoo.llama(), str(tmp_path / "saved"))
    modules = dict(again.base_model.model.named_modules())
    assert (
        module_scales(adapter.config, adapter.layout)
        == [modules[factor.module].scaling["default"] for factor in adapter.layout.factors]
        == [8.0, 2.0]
    )
    assert any(
        "several patterns match model.layers.0.self_attn.v_proj" in text for text in adapter.remarks
    )
