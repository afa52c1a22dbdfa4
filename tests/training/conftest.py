"""A tiny random Llama with a LoRA that is trained for some steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from tests.exchange import zoo

BASE = "tiny/llama"
STORED = 0.026
"""The default budget, and rounding."""
IDS = torch.arange(12).reshape(2, 6) % zoo.VOCABULARY


@pytest.fixture(autouse=True)
def _quiet(quiet: None) -> None:
    """In every test of this folder."""


@pytest.fixture
def registry() -> Iterator[sr.Registry]:
    """A registry in memory: a committer commits to it in a thread."""
    with sr.Registry.open("memory://") as opened:
        yield opened


def lora(seed: int = 0) -> Any:
    """Return the model with a LoRA of rank 2, whose values are those of the seed."""
    torch.manual_seed(5)
    config = zoo.peft.LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"])
    model = zoo.peft.get_peft_model(zoo.llama(), config)
    model.peft_config["default"].base_model_name_or_path = BASE
    scatter(model, seed)
    return model


def scatter(model: Any, seed: int) -> Any:
    """Set the values of the adapter, in place as an optimizer does."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if ".lora_" in name:
            value.data.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model


def distance(a: sr.Adapter, b: sr.Adapter) -> float:
    """Return the norm of the difference of two adapters' dW over that of the second."""
    pairs = zip(a.factor_pairs(), b.factor_pairs(), strict=True)
    both = [[each.scale * each.b.T @ each.a for each in pair] for pair in pairs]
    change = sum(float((x - y).norm() ** 2) for x, y in both)
    return float((change / sum(float(y.norm() ** 2) for _, y in both)) ** 0.5)


def trainer(model: Any, directory: Path, *callbacks: Any, **options: Any) -> Any:
    """Return a Trainer of six steps that evaluates and saves every second one."""
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": row, "labels": row} for row in IDS.repeat(4, 1)]
    arguments = {
        "max_steps": 6,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.05,
        "report_to": [],
        "use_cpu": True,
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 2,
        "disable_tqdm": True,
    }
    eval_dataset = options.pop("eval_dataset", rows)
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(directory), **(arguments | options)),
        train_dataset=rows,
        eval_dataset=eval_dataset,
        callbacks=list(callbacks),
    )
