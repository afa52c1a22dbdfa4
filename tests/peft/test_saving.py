"""Saving and loading, starting from a task, and committing what was trained."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

import share_registry as sr
from share_registry.catalog.queries.version_lookups import latest_version
from share_registry.errors import InvalidInputError, NotFoundError, RefusedError
from share_registry.exchange.peft_model import read_model
from share_registry.stored import StoredAdapter
from share_registry.values.policy import DEFAULT_BUDGET
from tests.exchange import zoo
from tests.peft.conftest import TARGETS, TASKS, MakeModel, base, lora, output
from tests.peft.steps import train

KINDS = tuple(TARGETS)
TOGETHER = 1e-5
"""float32 rounding of sums in another order."""
OUTPUT = 0.05
"""What the default budget's error in dW may do to an output that changes as much as itself."""
WIDTH = 256
PROJECTION = 1e-4
"""What is left when a task that lies in the subspace is projected on it.

Rounding of stored coefficients.
"""


@pytest.fixture
def wide(tmp_path: Path) -> Iterator[tuple[sr.Registry, Any]]:
    """A registry of a wide model, where a row costs more than coefficients, and a trained model.

    The model was trained in the registry's basis.
    """

    def plain() -> Any:
        torch.manual_seed(5)
        return BertModel(
            BertConfig(
                hidden_size=WIDTH,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                vocab_size=40,
            )
        ).eval()

    with sr.Registry.open(tmp_path / "wide") as registry:
        registry.create_space("wide", base_model="tiny-wide")
        for number in range(TASKS):
            registry.commit(lora("bert", number, model=plain()), task=f"task{number}", space="wide")
        registry.space("wide").refit(max_rank=4, force=True)
        config = sr.peft.ShareConfig(
            registry=registry,
            space="wide",
            pseudo_rank=2,
            extra_directions=0,
            init_scale=0.2,
            seed=1,
        )
        model = zoo.peft.get_peft_model(plain(), config)
        train(model)
        yield registry, model


def _stored(registry: sr.Registry, task: str) -> StoredAdapter:
    with registry.context.reading() as session:
        version = latest_version(session, "wide", task)
    assert version is not None
    return registry.context.reader().open(version.adapter_digest).stored


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phi", [0, 2])
def test_what_was_saved_loads_to_the_same_function_and_holds_no_basis(
    share: MakeModel, kind: str, phi: int, tmp_path: Path
) -> None:
    model = share(kind, extra_directions=phi)
    train(model)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = zoo.peft.PeftModel.from_pretrained(base(kind), str(tmp_path / "saved"))
    assert torch.equal(output(loaded), output(model))
    names = {
        key.rpartition(".")[2]
        for key in load_file(tmp_path / "saved" / "adapter_model.safetensors")
    }
    assert names == {"share_eps_a", "share_eps_b"} | (
        {"share_extra_a", "share_extra_b", "share_extra_eps_a", "share_extra_eps_b"}
        if phi
        else set()
    )


def test_the_saved_config_is_json_that_names_the_basis(
    share: MakeModel, registry: sr.Registry, tmp_path: Path
) -> None:
    share(init="task:task0", extra_directions=None).save_pretrained(str(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    expected = {
        "registry": registry.location,
        "space": "bert",
        "basis": registry.space("bert").basis().digest,
        "pseudo_rank": 2,
        "extra_directions": 0,
    }
    assert config | expected == config
    assert (config["init"], config["started_from"], config["peft_type"]) == (
        "noise",
        "bert/task0@v1",
        "SHARE",
    )


def test_a_registry_that_moved_is_found_by_argument_or_environment(
    share: MakeModel, registry: sr.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = share()
    model.save_pretrained(str(tmp_path / "saved"))
    registry.close()
    shutil.move(tmp_path / "registry", tmp_path / "moved")
    monkeypatch.delenv("SHARE_REGISTRY_URI", raising=False)
    with pytest.raises(NotFoundError, match=r"the basis .* was not found"):
        zoo.peft.PeftModel.from_pretrained(base(), str(tmp_path / "saved"))
    config = sr.peft.ShareConfig.from_pretrained(
        str(tmp_path / "saved"), registry=tmp_path / "moved"
    )
    assert torch.equal(
        output(zoo.peft.PeftModel.from_pretrained(base(), str(tmp_path / "saved"), config=config)),
        output(model),
    )
    monkeypatch.setenv("SHARE_REGISTRY_URI", str(tmp_path / "moved"))
    assert torch.equal(
        output(zoo.peft.PeftModel.from_pretrained(base(), str(tmp_path / "saved"))), output(model)
    )


def test_a_saved_adapter_goes_on_training(share: MakeModel, tmp_path: Path) -> None:
    model = share()
    losses = train(model)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = zoo.peft.PeftModel.from_pretrained(base(), str(tmp_path / "saved"), is_trainable=True)
    assert train(loaded)[-1] < losses[-1]


@pytest.mark.parametrize("phi", [0, 2])
def test_training_starts_at_a_task_that_lies_in_the_subspace(
    share: MakeModel, registry: sr.Registry, phi: int
) -> None:
    model = share(init_scale=0.5)
    registry.commit(model, task="inside", space="bert")
    stored = output(registry.space("bert").checkout("inside").apply_to(base()))
    for rank in (2, 4, None):
        started = output(share(init="task:inside", pseudo_rank=rank, extra_directions=phi))
        assert (started - stored).norm() / stored.norm() < PROJECTION


def test_extra_directions_hold_what_a_task_leaves_outside(
    share: MakeModel, registry: sr.Registry
) -> None:
    registry.commit(lora("bert", 77), task="outside", space="bert", budget=0)
    stored = output(lora("bert", 77))
    far, near = (output(share(init="task:outside@v1", extra_directions=phi)) for phi in (0, 2))
    assert (
        (near - stored).norm() / stored.norm() < PROJECTION < (far - stored).norm() / stored.norm()
    )


def test_every_tensor_of_a_start_with_spare_rank_can_move(share: MakeModel) -> None:
    model = share(init="task:task1", pseudo_rank=5, extra_directions=1)
    start = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    train(model, steps=3)
    assert all(
        not torch.equal(value, start[name])
        for name, value in model.named_parameters()
        if value.requires_grad
    )


def test_nearest_starts_at_the_task_in_the_middle(share: MakeModel, registry: sr.Registry) -> None:
    registry.commit(registry.space("bert").checkout("task2"), task="twin", space="bert", budget=0)
    nearest, expected = output(share(init="nearest")), output(share(init="task:task2"))
    assert (nearest - expected).norm() / expected.norm() < TOGETHER


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phi", [0, 2])
def test_a_commit_of_a_trained_model_is_within_budget_and_leaves_old_tasks_alone(
    share: MakeModel, registry: sr.Registry, kind: str, phi: int, tmp_path: Path
) -> None:
    before = {
        number: registry.space(kind).export(f"task{number}", tmp_path / "before").digest
        for number in range(TASKS)
    }
    model = share(kind, extra_directions=phi, init_scale=0.3)
    # slowly: outputs far from the base's change by several times what dW does
    train(model, rate=0.01)
    commit = registry.commit(model, task="trained", space=kind)
    back = registry.space(kind).checkout("trained")
    expected = model.base_model.lora_tensors("default")
    assert back.tensors.keys() == expected.keys()
    assert commit.report is not None
    assert commit.report.error <= DEFAULT_BUDGET
    applied, plain = output(back.apply_to(base(kind))), output(model)
    assert (applied - plain).norm() / plain.norm() < OUTPUT
    assert before == {
        number: registry.space(kind).export(f"task{number}", tmp_path / "after").digest
        for number in range(TASKS)
    }


def test_coefficients_alone_are_stored_where_training_stayed_in_the_basis(
    wide: tuple[sr.Registry, Any],
) -> None:
    registry, model = wide
    commit = registry.commit(model, task="trained", space="wide")
    stored = _stored(registry, "trained")
    modules = [module for module in stored.modules if module is not None]
    assert len(modules) == 2
    assert stored.sources == (registry.space("wide").basis().digest,)
    assert all(
        not side.own.any() and side.terms for module in modules for side in (module.a, module.b)
    )
    assert commit.report is not None
    assert commit.report.error <= DEFAULT_BUDGET


def test_coefficients_take_a_small_part_of_the_bytes_that_the_same_adapter_takes_alone(
    wide: tuple[sr.Registry, Any],
) -> None:
    registry, model = wide
    registry.create_space("alone", base_model="tiny-wide")
    adapter = read_model(model)
    models = {"wide": adapter, "alone": replace(adapter, basis=None)}
    reports = [
        registry.commit(each, task="trained", space=space).report for space, each in models.items()
    ]
    shared, alone = [
        sum(module.bytes for module in report.modules) for report in reports if report is not None
    ]
    assert 3 * shared < alone


def test_the_adapter_read_from_a_model_is_that_lora_exactly(share: MakeModel) -> None:
    model = share(extra_directions=1, init_scale=0.3)
    train(model)
    adapter = read_model(model)
    assert adapter.basis == model.peft_config["default"].basis
    assert (adapter.config["r"], adapter.config["lora_alpha"], adapter.config["peft_type"]) == (
        2,
        2,
        "LORA",
    )
    actual, expected = output(adapter.apply_to(base())), output(model)
    assert (actual - expected).norm() / expected.norm() < TOGETHER


def test_modules_to_save_ride_along_as_passengers(registry: sr.Registry) -> None:
    torch.manual_seed(5)
    whole = torch.nn.ModuleDict({"encoder": base().encoder, "head": torch.nn.Linear(16, 2)})
    config = sr.peft.ShareConfig(
        registry=registry, space="bert", pseudo_rank=2, extra_directions=0, modules_to_save=["head"]
    )
    adapter = read_model(zoo.peft.get_peft_model(whole, config))
    assert set(adapter.passengers) == {"base_model.model.head.weight", "base_model.model.head.bias"}
    assert len(adapter.layout.factors) == 4


def test_a_basis_of_another_base_model_is_refused_before_anything_is_replaced(
    registry: sr.Registry,
) -> None:
    model = base("llama")
    with pytest.raises(
        InvalidInputError, match="no module of the LlamaForCausalLM is among the 4 of the basis"
    ):
        zoo.peft.get_peft_model(model, sr.peft.ShareConfig(registry=registry, space="bert"))
    assert not any("share" in name for name, _ in model.named_parameters())
    torch.manual_seed(0)
    narrow = BertModel(
        BertConfig(
            hidden_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=8,
            vocab_size=40,
        )
    )
    with pytest.raises(InvalidInputError, match="of the model is 8 x 8, in the basis it is"):
        zoo.peft.get_peft_model(narrow, sr.peft.ShareConfig(registry=registry, space="bert"))


def test_a_module_without_directions_or_of_another_kind_is_refused_by_name(
    share: MakeModel,
) -> None:
    with pytest.raises(
        NotFoundError, match=r"'encoder.layer.0.attention.self.key' is not in the basis"
    ):
        share(target_modules=["key", "value"])
    with pytest.raises(RefusedError, match=r"'embeddings.word_embeddings' is a Embedding"):
        share(target_modules=["word_embeddings"])
    with pytest.raises(InvalidInputError, match="has room for"):
        share(extra_directions=1000)


def test_coefficients_of_another_size_are_refused(share: MakeModel, tmp_path: Path) -> None:
    share(pseudo_rank=3).save_pretrained(str(tmp_path / "saved"))
    config = sr.peft.ShareConfig.from_pretrained(str(tmp_path / "saved"))
    config.pseudo_rank = 2
    with pytest.raises(
        InvalidInputError,
        match=r"the saved adapter has 3 x \d+, the subspace in the basis \w{8} expects 2 x",
    ):
        zoo.peft.PeftModel.from_pretrained(base(), str(tmp_path / "saved"), config=config)


def test_what_is_not_there_is_not_found(
    registry: sr.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARE_REGISTRY_URI", raising=False)

    def wrap(**options: Any) -> None:
        zoo.peft.get_peft_model(base(), sr.peft.ShareConfig(**options))

    with pytest.raises(NotFoundError, match="the registry to train in was not found"):
        wrap(registry=tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="the basis 00000000 was not found"):
        wrap(registry=registry.location, space="bert", basis="0" * 64)
    with pytest.raises(NotFoundError, match="task bert/nothing does not exist"):
        wrap(registry=registry, space="bert", init="task:nothing")
    registry.create_space("empty", base_model="tiny")
    with pytest.raises(NotFoundError, match="space 'empty' has no basis"):
        wrap(registry=registry, space="empty")


@pytest.mark.parametrize(
    "options",
    [
        {"init": "zeros"},
        {"init": "task:"},
        {"init_scale": 0.0},
        {"init_scale": None},
        {"init": None},
        {"dropout": None},
        {"fan_in_fan_out": None},
        {"pseudo_rank": 0},
        {"extra_directions": -1},
        {"dropout": 1.0},
        {"registry": 5},
    ],
)
def test_values_that_mean_nothing_are_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        sr.peft.ShareConfig(**options)


def test_a_password_is_never_saved() -> None:
    config = sr.peft.ShareConfig(
        registry="postgresql://ann:secret@db.example/catalog", store="store"
    )
    assert "secret" not in str(config.to_dict())
    assert config.to_dict()["registry"].startswith("postgresql+psycopg://ann@db.example/")


@pytest.mark.parametrize(("init", "via"), [("task:task1", ["", "derived"]), ("noise", [""])])
def test_the_lineage_of_what_was_trained_has_the_version_it_started_from(
    registry: sr.Registry, share: MakeModel, init: str, via: list[str]
) -> None:
    model = share("bert", init=init)
    train(model)
    commit = registry.commit(model, task="cola", space="bert")
    assert [node.via for node in registry.lineage(commit.ref).nodes] == via
