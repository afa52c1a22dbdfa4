"""Every LoRA variant through the registry.

Exact where every bit is kept, within the budget otherwise, refused by name where it cannot be taken
apart.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import share_registry as sr
from share_registry.algebra.error import FactorPair, pooled_error
from share_registry.exchange.importers.formats import read_place
from share_registry.outside.files import Outside
from tests.exchange import zoo
from tests.exchange.edits import set_config, set_tensors
from tests.exchange.refusals import CONFIGS, FILES
from tests.registry.plain import files

Original = Callable[[str], Path]
BUDGET = 0.05
SAME_LOGITS = 1e-5
AGREEMENT = 1e-3


def pairs(adapter: sr.Adapter) -> list[FactorPair]:
    return adapter.factor_pairs()


@pytest.mark.parametrize("name", zoo.CASES)
def test_at_budget_zero_a_model_answers_alike(
    name: str, original: Original, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("zoo")
    commit = registry.commit(
        original(name), task="variant", space="zoo", budget=0, allow_base_mismatch=True
    )
    assert commit.report is not None
    assert commit.report.error == 0
    exported = registry.space("zoo").export("variant", tmp_path / "out").path
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (exported / file).read_bytes() == (original(name) / file).read_bytes()
    if zoo.CASES[name].dtype is torch.float32:
        assert (
            zoo.logits(zoo.load(name, exported)) - zoo.logits(zoo.load(name, original(name)))
        ).abs().max() <= SAME_LOGITS


@pytest.mark.parametrize("name", zoo.CASES)
def test_within_a_budget_the_error_is_the_recorded_one(
    name: str, original: Original, registry: sr.Registry, tmp_path: Path
) -> None:
    registry.create_space("zoo")
    report = registry.commit(
        original(name), task="variant", space="zoo", budget=BUDGET, allow_base_mismatch=True
    ).report
    assert report is not None
    exported = registry.space("zoo").export("variant", tmp_path / "out").path
    source, checked_out = (
        read_place(original(name), outside=Outside()),
        read_place(exported, outside=Outside()),
    )
    true = pooled_error(pairs(checked_out), pairs(source))
    assert true <= BUDGET
    assert true == pytest.approx(report.error, rel=AGREEMENT, abs=1e-9)
    assert checked_out.config == source.config
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in checked_out.tensors.items()} == {
        key: (t.dtype, t.shape) for key, t in source.tensors.items()
    }
    assert all(
        torch.equal(checked_out.passengers[key], tensor)
        for key, tensor in source.passengers.items()
    )
    zoo.load(name, exported)
    assert registry.verify("deep").ok


def test_refusals_leave_the_registry_as_it_was(
    registry: sr.Registry, original: Original, copied: Original
) -> None:
    registry.create_space("zoo")
    registry.commit(original("plain"), task="variant", space="zoo", allow_base_mismatch=True)
    before = files(Path(registry.location))
    bad = copied("plain")
    clean = files(bad)
    for fields, error, _ in CONFIGS.values():
        set_config(bad, **fields)
        with pytest.raises(error):
            registry.commit(bad, task="refused", space="zoo", allow_base_mismatch=True)
        (bad / "adapter_config.json").write_bytes(clean["adapter_config.json"])
    for change, error, _ in FILES.values():
        set_tensors(bad, change)
        with pytest.raises(error):
            registry.commit(bad, task="refused", space="zoo", allow_base_mismatch=True)
        (bad / "adapter_model.safetensors").write_bytes(clean["adapter_model.safetensors"])
    assert files(Path(registry.location)) == before
