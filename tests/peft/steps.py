"""Training in a plain loop."""

from typing import Any

import torch

from tests.peft.conftest import IDS

STEPS = 12


def loss_of(model: Any) -> torch.Tensor:
    """Return the loss of a few tokens, with gradients."""
    result: torch.Tensor = (
        (model(IDS)[0] - 1.0).abs().mean()
        if "Bert" in str(type(model.get_base_model()))
        else model(IDS, labels=IDS).loss
    )
    return result


def train(model: Any, steps: int = STEPS, rate: float = 0.05) -> list[float]:
    """Train in a plain loop; return the losses."""
    optimizer = torch.optim.Adam(
        [value for value in model.parameters() if value.requires_grad], lr=rate
    )
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses
