"""A registry with a basis for two tiny random models, a BERT and a Llama, and those models."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from tests.exchange import zoo

TARGETS = {"bert": ["query", "value"], "llama": ["q_proj", "v_proj"]}
BASE = {"bert": zoo.bert, "llama": zoo.llama}
TASKS = 3
IDS = torch.arange(12).reshape(2, 6) % zoo.VOCABULARY

MakeModel = Callable[..., Any]


@pytest.fixture(autouse=True)
def _quiet(quiet: None) -> None:
    """In every test of this folder."""


def base(kind: str = "bert") -> Any:
    """Return one of the models, the same every time."""
    torch.manual_seed(5)
    return BASE[kind]().eval()


def output(model: Any) -> torch.Tensor:
    """Return what a model makes of a few tokens, without gradients."""
    with torch.no_grad():
        result: torch.Tensor = model.eval()(IDS)[0]
    return result


def lora(kind: str, seed: int, *, model: Any = None) -> Any:
    """Return a model, one of these or another of the kind, with a random LoRA of rank 2."""
    model = zoo.peft.get_peft_model(
        base(kind) if model is None else model,
        zoo.peft.LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS[kind]),
    )
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if ".lora_" in name:
            value.data.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model


@pytest.fixture(scope="session")
def registry_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a registry with a space for each model.

    Each has three tasks and a basis that holds them.
    """
    root = tmp_path_factory.mktemp("subspace") / "registry"
    with warnings.catch_warnings(), sr.Registry.open(root) as registry:
        warnings.simplefilter("ignore")
        for kind in TARGETS:
            registry.create_space(kind, base_model=f"tiny-{kind}")
            for number in range(TASKS):
                registry.commit(lora(kind, number), task=f"task{number}", space=kind, budget=0.001)
            registry.space(kind).refit(max_rank=TASKS * 2, force=True)
    return root


@pytest.fixture
def registry(registry_root: Path, tmp_path: Path) -> Iterator[sr.Registry]:
    """A copy of that registry of the test's own."""
    shutil.copytree(registry_root, tmp_path / "registry")
    with sr.Registry.open(tmp_path / "registry") as opened:
        yield opened


@pytest.fixture
def share(registry: sr.Registry) -> MakeModel:
    """Put an adapter of the method into a new model."""

    def make(kind: str = "bert", model: Any = None, **options: Any) -> Any:
        config = sr.peft.ShareConfig(
            **{
                "registry": registry,
                "space": kind,
                "seed": 3,
                "pseudo_rank": 2,
                "extra_directions": 0,
            }
            | options
        )
        return zoo.peft.get_peft_model(base(kind) if model is None else model, config)

    return make
