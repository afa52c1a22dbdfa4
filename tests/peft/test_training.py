"""Training in the subspace.

Gradients from the first step, nothing else moves, and both usual ways to train.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import share_registry as sr
from tests.exchange import zoo
from tests.peft.conftest import IDS, TARGETS, MakeModel, base, output
from tests.peft.steps import loss_of, train

KINDS = tuple(TARGETS)
SMALL = 0.05
"""The first dW of noise changes the output by less than this, relative."""
TOGETHER = 1e-5
"""float32 rounding of sums in another order."""
ROUNDED = 0.02
"""The basis is stored with as many bits as the default budget needs."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phi", [0, 2])
def test_every_trained_tensor_has_a_gradient_at_the_start_and_the_start_is_near_the_base_model(
    share: MakeModel, kind: str, phi: int
) -> None:
    model = share(kind, extra_directions=phi)
    loss_of(model).backward()  # type: ignore[no-untyped-call]
    asked = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert len(asked) == 4 * (2 if phi == 0 else 6)
    assert all(
        ".share_" in name and value.grad is not None and value.grad.norm() > 0
        for name, value in asked.items()
    )
    plain = output(base(kind))
    assert 0 < (output(model) - plain).norm() / plain.norm() < SMALL


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phi", [0, 2])
def test_training_lowers_the_loss_and_moves_neither_base_weights_nor_basis(
    share: MakeModel, kind: str, phi: int
) -> None:
    model = share(kind, extra_directions=phi)
    before = {
        name: value.clone()
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if ".share_e" not in name
    }
    losses = train(model)
    assert losses[-1] < losses[0]
    after = dict([*model.named_parameters(), *model.named_buffers()])
    assert any(".share_alpha" in name for name in before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_of_transformers_trains_it(share: MakeModel, kind: str, tmp_path: Path) -> None:
    from transformers import Trainer, TrainingArguments

    class Plain(Trainer):  # type: ignore[misc]
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, **_: object
        ) -> Any:
            outputs = model(inputs["input_ids"])[0]
            loss = (outputs - 1.0).abs().mean()
            return (loss, outputs) if return_outputs else loss

    model = share(kind)
    frozen = {
        name: value.clone() for name, value in model.named_parameters() if not value.requires_grad
    }
    start = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    rows = [{"input_ids": row, "labels": row} for row in IDS.repeat(4, 1)]
    options = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        report_to=[],
        use_cpu=True,
        save_strategy="steps",
        save_steps=2,
    )
    Plain(model=model, args=options, train_dataset=rows).train()
    after = dict(model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in frozen.items())
    assert all(not torch.equal(value, after[name]) for name, value in start.items())
    assert (tmp_path / "checkpoint-4" / "adapter_config.json").exists()


def test_gradient_checkpointing_gives_the_same_gradients(share: MakeModel) -> None:
    plain, saving = share("llama"), share("llama")
    saving.get_base_model().gradient_checkpointing_enable()
    saving.get_base_model().enable_input_require_grads()
    for model in (plain, saving):
        model.train()
        loss_of(model).backward()  # type: ignore[no-untyped-call]
    pairs = [
        (a.grad, b.grad)
        for a, b in zip(plain.parameters(), saving.parameters(), strict=True)
        if a.requires_grad
    ]
    assert pairs
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=TOGETHER, atol=TOGETHER)


def test_a_model_in_half_precision_keeps_its_type_and_trains_in_single(share: MakeModel) -> None:
    model = share(model=base().to(torch.bfloat16))
    assert output(model).dtype is torch.bfloat16
    assert {value.dtype for value in model.parameters() if value.requires_grad} == {torch.float32}
    assert {value.dtype for name, value in model.named_buffers() if ".share_" in name} == {
        torch.float32
    }
    assert train(model)[-1] < train(share())[0]


def test_the_same_seed_starts_the_same_and_another_seed_does_not(share: MakeModel) -> None:
    assert torch.equal(output(share()), output(share()))
    assert not torch.equal(output(share()), output(share(seed=4)))


def test_several_adapters_are_switched_on_and_off(share: MakeModel, registry: sr.Registry) -> None:
    model = share(init_scale=0.5)
    plain, first = output(base()), output(model)
    model.add_adapter(
        "second",
        sr.peft.ShareConfig(
            registry=registry,
            space="bert",
            seed=9,
            pseudo_rank=1,
            extra_directions=1,
            init_scale=0.5,
        ),
    )
    assert torch.equal(output(model), first)
    model.set_adapter("second")
    assert not torch.equal(output(model), first)
    assert all("second" in name for name, value in model.named_parameters() if value.requires_grad)
    with model.disable_adapter():
        assert torch.equal(output(model), plain)
    model.delete_adapter("second")
    model.set_adapter("default")
    assert torch.equal(output(model), first)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_gives_the_same_function_and_unmerging_the_same_bytes(
    share: MakeModel, dtype: torch.dtype
) -> None:
    model = share(model=base().to(dtype), init_scale=0.5, extra_directions=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apart = output(model).float()
    model.merge_adapter(safe_merge=True)
    assert (output(model).float() - apart).norm() / apart.norm() < (
        TOGETHER if dtype is torch.float32 else 0.02
    )
    model.unmerge_adapter()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model.merge_and_unload()) is type(base())


def test_the_transposed_linear_of_gpt2_is_adapted(registry: sr.Registry) -> None:
    def lora() -> Any:
        torch.manual_seed(5)
        model = zoo.peft.get_peft_model(
            zoo.gpt2(),
            zoo.peft.LoraConfig(r=2, lora_alpha=2, target_modules=["c_attn"], fan_in_fan_out=True),
        )
        zoo.scatter(model)
        return model

    registry.create_space("gpt2", base_model="tiny-gpt2")
    registry.commit(lora(), task="one", space="gpt2", budget=0.001)
    registry.space("gpt2").refit(max_rank=4, force=True)
    torch.manual_seed(5)
    config = sr.peft.ShareConfig(
        registry=registry, space="gpt2", init="task:one", extra_directions=0
    )
    model = zoo.peft.get_peft_model(zoo.gpt2().eval(), config)
    expected = output(lora())
    assert (output(model) - expected).norm() / expected.norm() < ROUNDED
    model.merge_adapter()
    assert (output(model) - expected).norm() / expected.norm() < ROUNDED


def test_importing_the_package_imports_neither_torch_nor_peft() -> None:
    code = (
        "import sys, share_registry as sr; assert not {'torch', 'peft'} & set(sys.modules); "
        "sr.peft.ShareConfig; assert 'peft' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
