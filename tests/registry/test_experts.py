"""Experts' factors that another release of PEFT or another tool laid otherwise."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from share_registry.algebra.error import relative_change
from share_registry.exchange.normal_form import pairs_of_function
from tests.exchange import zoo
from tests.exchange.zoo import peft

CLOSE: Final = 1e-6
EXPERTS: Final = 4
RANK: Final = 2
PREFIX: Final = "base_model.model."


class Square(torch.nn.Module):
    """Experts whose parameter is square, so that shapes do not tell its orientation."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.randn(EXPERTS, out, 8) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("eoi,bi->bo", self.weights, x)


class Net(torch.nn.Module):
    """A linear module and experts."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.lin = torch.nn.Linear(8, 8)
        self.experts = Square(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.experts(self.lin(x))  # type: ignore[no-any-return]


def net(out: int = 8) -> Net:
    torch.manual_seed(5)
    return Net(out)


def save(directory: Path, out: int = 8) -> Path:
    """Save an adapter of a net as PEFT does today."""
    config = peft.LoraConfig(
        r=RANK, lora_alpha=3, target_modules=["lin"], target_parameters=["experts.weights"]
    )
    model = peft.get_peft_model(net(out), config)
    zoo.scatter(model)
    zoo.save(model, directory)
    return set_config(directory, base_model_name_or_path="org/net", auto_mapping=None)


def set_config(directory: Path, **members: Any) -> Path:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | members))
    return directory


def turned(source: Path, directory: Path) -> Path:
    """Write the same function as PEFT 0.18 does: A and B of the experts have changed places."""
    tensors = load_file(source / "adapter_model.safetensors")
    keys = [f"{PREFIX}experts.lora_{side}.weight" for side in "AB"]
    a, b = (tensors[key] for key in keys)
    a, b = a.reshape(EXPERTS, RANK, -1), b.reshape(-1, RANK, EXPERTS)
    tensors[keys[0]] = b.permute(2, 1, 0).flatten(0, 1).contiguous()
    tensors[keys[1]] = a.permute(2, 1, 0).flatten(1).contiguous()
    return write(source, directory, tensors, peft_version="0.18.1")


def grouped(source: Path, directory: Path, **members: Any) -> Path:
    """Write the same function as Unsloth did: columns of lora_B grouped by expert."""
    tensors = load_file(source / "adapter_model.safetensors")
    key = f"{PREFIX}experts.lora_B.weight"
    b = tensors[key]
    tensors[key] = b.reshape(-1, RANK, EXPERTS).transpose(1, 2).reshape(b.shape).contiguous()
    return write(source, directory, tensors, **members)


def write(source: Path, directory: Path, tensors: dict[str, torch.Tensor], **members: Any) -> Path:
    shutil.copytree(source, directory)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    return set_config(directory, **members)


def output(directory: Path, out: int = 8) -> torch.Tensor:
    model = peft.PeftModel.from_pretrained(net(out), str(directory))
    with torch.no_grad():
        return torch.as_tensor(model(torch.linspace(-1, 1, 40).reshape(5, 8)))


MARK: Final = {"lora_B_layout": "grouped_by_expert"}
DETAIL: Final = {"unsloth_fused_expert_lora": {"parameters": {"weights": MARK}}}
FORMS: Final = {
    "PEFT 0.18": lambda source, directory: turned(source, directory),
    "Unsloth": lambda source, directory: grouped(source, directory, **MARK),
    "Unsloth, by parameter": lambda source, directory: grouped(source, directory, **DETAIL),
}


@pytest.fixture(autouse=True)
def space(registry: sr.Registry) -> None:
    registry.create_space("nets", base_model="org/net", policy=sr.Policy(refit=False))


@pytest.mark.parametrize("out", [8, 6])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_experts_of_another_form_are_portable_as_they_were_trained(
    form: str, out: int, registry: sr.Registry, tmp_path: Path
) -> None:
    today = save(tmp_path / "today", out)
    other = FORMS[form](today, tmp_path / "other")
    report = registry.commit(other, task="other", budget=0.05).report
    assert report is not None
    assert any("as another function" in note or "another function" in note for note in report.notes)
    native = registry.export("other", tmp_path, name="native").path
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (native / file).read_bytes() == (other / file).read_bytes() or report.error > 0
    exact = registry.commit(other, task="exact", budget=0).report
    assert exact is not None
    portable = registry.export("exact", tmp_path, name="portable", profile="portable").path
    config = json.loads((portable / "adapter_config.json").read_bytes())
    assert config["peft_version"] >= "0.19"
    expected = output(today, out)
    assert (output(portable, out) - expected).norm() <= CLOSE * expected.norm()


@pytest.mark.parametrize("out", [8, 6])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_experts_of_two_forms_compare_and_merge_as_one_function(
    form: str, out: int, registry: sr.Registry, tmp_path: Path
) -> None:
    today = save(tmp_path / "today", out)
    other = FORMS[form](today, tmp_path / "other")
    # of experts that are not square, the older form is transposed to what the space has
    registry.commit(today, task="today", budget=0)
    report = registry.commit(other, task="other", budget=0).report
    assert report is not None
    is_turned = form == "PEFT 0.18" and out != 8
    assert any(": transposed to what" in note for note in report.notes) is is_turned
    assert registry.similar("other").neighbours[0].distance <= CLOSE
    assert registry.diff("today", "other").tasks[0].change == pytest.approx(0, abs=CLOSE)
    pairs = [pairs_of_function(registry.checkout(task)) for task in ("today", "other")]
    assert relative_change(*pairs) <= CLOSE
    registry.merge({"today": 0.5, "other": 0.5}, task="both", budget=0)
    merged = registry.export("both", tmp_path, name="merged").path
    expected = output(today, out)
    assert (output(merged, out) - expected).norm() <= CLOSE * expected.norm()
    applied = registry.checkout("other").apply_to(net(out))
    with torch.no_grad():
        actual = applied(torch.linspace(-1, 1, 40).reshape(5, 8))
    assert (actual - expected).norm() <= CLOSE * expected.norm()


@pytest.mark.filterwarnings("ignore")
def test_experts_of_an_unknown_order_are_kept_exactly_and_not_made_portable(
    registry: sr.Registry, tmp_path: Path
) -> None:
    mapping = {"base_model_class": "Net", "unsloth_fixed": True}
    other = grouped(save(tmp_path / "today"), tmp_path / "other", auto_mapping=mapping)
    report = registry.commit(other, task="other", budget=0.1).report
    assert report is not None
    assert report.error == 0
    assert any("does not say lora_B_layout" in note for note in report.notes)
    with pytest.raises(sr.RefusedError, match="does not say lora_B_layout") as caught:
        registry.export("other", tmp_path, profile="portable")
    assert '"lora_B_layout": "grouped_by_expert"' in (caught.value.hint or "")
    # the hint, followed
    registry.commit(set_config(other, **MARK), task="other", budget=0)
    portable = registry.export("other", tmp_path, name="portable", profile="portable").path
    expected = output(tmp_path / "today")
    assert (output(portable) - expected).norm() <= CLOSE * expected.norm()
