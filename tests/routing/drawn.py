"""Task versions with drawn factors, and the dense arithmetic that an index must agree with."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from share_registry.algebra.error import FactorPair
from share_registry.routing.routing_index import RoutingIndex
from share_registry.routing.routing_table import make_table
from share_registry.values.routes import RoutedTask

MODULES = ("layers.0.proj", "layers.1.proj")
WIDTH = 32
OUT = 24


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def pair(seed: int, rank: int, *, module: str = MODULES[0], width: int = WIDTH) -> FactorPair:
    drawn = normal(seed, rank, width + OUT)
    return FactorPair(module=module, a=drawn[:, :width], b=drawn[:, width:], scale=2.0)


def draw_task(seed: int, rank: int) -> list[FactorPair]:
    return [pair(1000 * seed + n, rank, module=name) for n, name in enumerate(MODULES)]


def index_of(tasks: Sequence[Sequence[FactorPair]], max_rank: int | None = None) -> RoutingIndex:
    routed = [
        (RoutedTask(ref=f"tiny/t{n}@v1", digest=f"{n:064x}"), pairs)
        for n, pairs in enumerate(tasks)
    ]
    return RoutingIndex(make_table(routed, base_model="acme/tiny", max_rank=max_rank))


def dense_scores(tasks: Sequence[Sequence[FactorPair]], x: Mapping[str, Tensor]) -> Tensor:
    """Return the mean over modules of |P x|^2 / |x|^2 - r / in, by the pseudo-inverse of dW."""
    rows = []
    for pairs in tasks:
        scores = []
        for each in pairs:
            dW = each.scale * each.b.mT @ each.a
            projector = torch.linalg.pinv(dW, rtol=1e-10) @ dW
            tokens = x[each.module].double().reshape(-1, dW.shape[1])
            share = (tokens @ projector).square().sum(1) / tokens.square().sum(1)
            scores.append(share.mean() - torch.trace(projector) / dW.shape[1])
        rows.append(torch.stack(scores).mean())
    return torch.stack(rows)
