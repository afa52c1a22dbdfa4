"""What enters the modules of a model, row by row, without what pads them."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

import share_registry as sr
from tests.routing.drawn import index_of, pair

QUERY = "encoder.layer.{}.attention.self.query"
NAMES = [QUERY.format(0), QUERY.format(1)]
LENGTHS = (3, 7, 5)
CLOSE = 1e-5
"""A padded batch is another order of float32 sums."""


@pytest.fixture(scope="module")
def model() -> BertModel:
    return make_model()


def make_model() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    return BertModel(config, add_pooling_layer=True).eval()


@pytest.fixture
def index() -> sr.RoutingIndex:
    return index_of(
        [[pair(10 * n + m, 4, module=name) for m, name in enumerate(NAMES)] for n in range(3)]
    )


def batch(side: str) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return token ids row by row, and the padded batch."""
    rows = [torch.arange(5, 5 + length) for length in LENGTHS]
    ids = torch.zeros(len(rows), max(LENGTHS), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        place = slice(0, len(tokens)) if side == "right" else slice(-len(tokens), None)
        ids[row, place], mask[row, place] = tokens, 1
    return rows, {"input_ids": ids, "attention_mask": mask}


def test_rows_of_a_padded_batch_are_those_of_each_alone(
    model: BertModel, index: sr.RoutingIndex
) -> None:
    rows, padded = batch("right")
    together = index.observe(model, **padded)
    assert [x[NAMES[0]].shape for x in together] == [(length, 32) for length in LENGTHS]
    for tokens, seen in zip(rows, together, strict=True):
        (alone,) = index.observe(model, input_ids=tokens[None])
        assert seen.keys() == alone.keys() == set(NAMES)
        for name in NAMES:
            assert torch.allclose(seen[name], alone[name], atol=CLOSE)
        assert torch.allclose(index.scores(seen), index.scores(alone), atol=CLOSE)


def test_padding_on_the_left_is_left_out_too(model: BertModel, index: sr.RoutingIndex) -> None:
    _, padded = batch("left")
    seen = index.observe(model, **padded)
    assert [len(x[NAMES[1]]) for x in seen] == [*LENGTHS]
    mask = padded["attention_mask"].bool()
    hidden = model.embeddings(padded["input_ids"])
    assert torch.allclose(seen[0][NAMES[0]], hidden[0][mask[0]], atol=CLOSE)


def test_nothing_stays_in_the_model(model: BertModel, index: sr.RoutingIndex) -> None:
    seen = index.observe(model, **batch("right")[1])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(x.requires_grad for row in seen for x in row.values())
    with pytest.raises(ValueError):
        index.observe(model, nonsense=torch.ones(1, 1))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_module_of_one_vector_a_row_has_one_token(model: BertModel) -> None:
    index = index_of([[pair(0, 2, module="pooler.dense")]])
    seen = index.observe(model, **batch("right")[1])
    assert [x["pooler.dense"].shape for x in seen] == [(1, 32)] * 3


class Flat(nn.Module):
    """Calls a module with positions of all rows in one dimension, twice, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(32, 32)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None, rows: int = 0) -> Tensor:
        flat = x.reshape(-1, 32)[: rows or None]
        twice: Tensor = self.proj(input=flat) + self.proj(input=flat + 1)
        return twice


def test_positions_in_one_dimension_are_told_apart_and_all_calls_count() -> None:
    index = index_of([[pair(0, 2, module="proj")]])
    x = torch.randn(2, 3, 32)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    first, second = index.observe(Flat().eval(), x=x, attention_mask=mask)
    assert torch.equal(first["proj"], torch.cat([x[0], x[0] + 1]))
    assert torch.equal(second["proj"], torch.cat([x[1, :1], x[1, :1] + 1]))
    with pytest.raises(sr.InvalidInputError, match=r"enters proj has the shape \[5, 32\]"):
        index.observe(Flat().eval(), x=x, attention_mask=mask, rows=5)


def test_a_module_that_the_model_lacks_is_named(model: BertModel, index: sr.RoutingIndex) -> None:
    with pytest.raises(sr.InvalidInputError, match=r"no module 'layers\.9'.* 1 of 1") as raised:
        index_of([[pair(0, 2, module="layers.9")]]).observe(model, **batch("right")[1])
    assert "modules=" in raised.value.hint
    outer = nn.ModuleDict({"bert": model}).eval()
    with pytest.raises(sr.InvalidInputError) as raised:
        index.observe(outer, **batch("right")[1])
    assert "get_submodule('bert')" in raised.value.hint
    assert index.observe(outer.get_submodule("bert"), **batch("right")[1])


# of transformers, at what PEFT asks it
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_must_be_disabled(index: sr.RoutingIndex) -> None:
    plain = make_model()
    inputs: Any = batch("right")[1]
    before = index.observe(plain, **inputs)
    config = peft.LoraConfig(r=2, target_modules=["value"], init_lora_weights=False)
    wrapped = peft.get_peft_model(plain, config).eval()
    with pytest.raises(sr.InvalidInputError, match=r"adapter active at .*value") as raised:
        index.observe(wrapped, **inputs)
    assert "disable_adapter" in raised.value.hint
    with wrapped.disable_adapter():
        for whole in (wrapped, wrapped.get_base_model()):
            after = index.observe(whole, **inputs)
            for x, y in zip(before, after, strict=True):
                assert torch.equal(x[NAMES[1]], y[NAMES[1]])


def test_what_cannot_be_observed_is_said(model: BertModel, index: sr.RoutingIndex) -> None:
    inputs = batch("right")[1]
    with pytest.raises(sr.InvalidInputError, match="training mode"):
        index.observe(Flat(), **inputs)
    with pytest.raises(sr.InvalidInputError, match="a torch module"):
        index.observe("model", **inputs)
    with pytest.raises(sr.InvalidInputError, match="hold no tensor"):
        index.observe(model)
    with pytest.raises(sr.InvalidInputError, match=r"attention_mask has the shape \[7\]"):
        index.observe(model, **inputs | {"attention_mask": torch.ones(7)})
    narrow = index_of([[pair(0, 2, module=NAMES[0], width=16)]])
    with pytest.raises(sr.InvalidInputError, match=r"expected \(3, tokens, 16\)"):
        narrow.observe(model, **inputs)
