"""Where training starts: small noise, or the coefficients of a stored task.

dW = E_b^T E_a is bilinear: with both sides zero no gradient reaches either, so that nothing ever
starts from there. Noise is on both sides; where a stored task has less rank than is trained, the
spare rows are noise on side a and zero on side b, which changes no output and still receives a
gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch

from share_registry.errors import NotFoundError
from share_registry.exchange.scales import PREFIX, plain_path

if TYPE_CHECKING:
    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.registry import Registry

_TASK: Final = "task:"
_NEGLIGIBLE: Final = 1e-10
"""Singular values below this share of the largest are rounding of float64 sums."""

Directions = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The factors of a task, the scale in b: a (r, in), b (r, out), float64."""

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What training starts with.

    Eps_a (p, k_a + phi), eps_b (p, k_b + phi), extra_a (phi, in), extra_b (phi, out), float64.
    """

    eps_a: torch.Tensor
    eps_b: torch.Tensor
    extra_a: torch.Tensor
    extra_b: torch.Tensor


def starts_of(
    init: str, registry: "Registry", space: str, modules: Directions
) -> tuple[str | None, dict[str, Start]]:
    """Return the task version that `init` names and its factors by module path.

    None and none for noise. Raises NotFoundError.
    """
    if init.startswith(_TASK):
        found = registry.space(space).checkout(init.removeprefix(_TASK))
        return found.ref, _factors(found)
    if init == "nearest":
        return _medoid(registry, space, modules)
    return None, {}


def noise(
    alpha: torch.Tensor,
    beta: torch.Tensor,
    *,
    p: int,
    phi: int,
    norm: float,
    generator: torch.Generator,
) -> Coefficients:
    """Return small coefficients on both sides, such that dW has about this Frobenius norm, and random directions orthogonal to the basis.

    With entries of variance s^2 on both sides, E |dW|^2 = s^4 p (k_a + phi) (k_b + phi).

    Args:
        alpha, beta: Directions (k_a, in), (k_b, out), float64.
        p: Pseudo-rank.
        phi: Extra directions.
        norm: Frobenius norm of dW.
        generator: Of everything random here, on the CPU.
    """
    k_a, k_b = len(alpha) + phi, len(beta) + phi
    size = (norm / (p * k_a * k_b) ** 0.5) ** 0.5
    return Coefficients(
        eps_a=size * _normal(p, k_a, generator),
        eps_b=size * _normal(p, k_b, generator),
        extra_a=_beside(
            alpha, torch.empty(0, alpha.shape[1], dtype=torch.float64, device="cpu"), phi, generator
        ),
        extra_b=_beside(
            beta, torch.empty(0, beta.shape[1], dtype=torch.float64, device="cpu"), phi, generator
        ),
    )


def projected(
    start: Start,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    *,
    p: int,
    phi: int,
    norm: float,
    generator: torch.Generator,
) -> Coefficients:
    """Return the coefficients of a task, exact where it lies in the subspace and has no more rank than p; else the best of that rank there.

    Extra directions are those in which the task leaves the basis furthest; where it does not,
    random ones.
    """
    a, b = _balanced(start)
    extra_a, extra_b = _beside(alpha, a, phi, generator), _beside(beta, b, phi, generator)
    inner_a, inner_b = a @ torch.cat([alpha, extra_a]).mT, b @ torch.cat([beta, extra_b]).mT
    eps_a, eps_b = _balanced(Start(a=inner_a, b=inner_b))
    eps_a, eps_b = eps_a[:p], eps_b[:p]
    spare = p - len(eps_a)
    if spare:
        size = (norm / (p * inner_a.shape[1] * inner_b.shape[1]) ** 0.5) ** 0.5
        eps_a = torch.cat([eps_a, size * _normal(spare, inner_a.shape[1], generator)])
        eps_b = torch.cat(
            [eps_b, torch.zeros(spare, inner_b.shape[1], dtype=torch.float64, device="cpu")]
        )
    return Coefficients(eps_a=eps_a, eps_b=eps_b, extra_a=extra_a, extra_b=extra_b)


def _balanced(start: Start) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows sqrt(S) V^T and sqrt(S) U^T of b^T a = U S V^T, those of rank only, strongest first."""
    Q_a, R_a = torch.linalg.qr(start.a.mT)
    Q_b, R_b = torch.linalg.qr(start.b.mT)
    U, S, Vh = torch.linalg.svd(R_b @ R_a.mT, full_matrices=False)
    rank = int((_NEGLIGIBLE * S.max() < S).sum()) if S.numel() else 0
    root = S[:rank].sqrt().unsqueeze(1)
    return root * (Vh[:rank] @ Q_a.mT), root * (U[:, :rank].mT @ Q_b.mT)


def _beside(
    basis: torch.Tensor, rows: torch.Tensor, phi: int, generator: torch.Generator
) -> torch.Tensor:
    """Return phi orthonormal directions orthogonal to a basis.

    The leading ones of what rows leave outside it, then random ones.
    """
    rest = rows - rows @ basis.mT @ basis
    _, S, Vh = torch.linalg.svd(rest, full_matrices=False)
    leading = Vh[: int((1e-6 * rows.norm() < S).sum())][:phi]
    free = basis.shape[1] - len(basis)
    known = torch.cat([basis, leading])
    drawn = _normal(phi - len(leading), basis.shape[1], generator)
    for _ in range(
        2 if free >= phi else 0
    ):  # twice: what is left of the first subtraction is not orthogonal to rounding
        drawn = drawn - drawn @ known.mT @ known
    return torch.cat([leading, torch.linalg.qr(drawn.mT)[0].mT]) if len(drawn) else leading


def _normal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64, device="cpu")


def _factors(adapter: "Adapter") -> dict[str, Start]:
    pairs = adapter.factor_pairs()
    return {
        plain_path(shape.module).removeprefix(PREFIX): Start(
            a=pair.a.to(torch.float64), b=pair.scale * pair.b.to(torch.float64)
        )
        for shape, pair in zip(adapter.layout.modules(), pairs, strict=True)
    }


def _medoid(registry: "Registry", space: str, modules: Directions) -> tuple[str, dict[str, Start]]:
    """Return the task whose dW, within the subspace and at unit norm, is nearest to all others'.

    There is nothing of the new task yet to be near to.
    """
    refs = [task.ref for task in registry.tasks(space)]
    tasks = [_factors(registry.space(space).checkout(ref)) for ref in refs]
    if not tasks:
        raise NotFoundError(f"space {space!r} has no task to start from.", hint="Use init='noise'.")
    inner = torch.zeros(len(tasks), len(tasks), dtype=torch.float64, device="cpu")
    for path, (alpha, beta) in modules.items():
        held = [
            (number, task[path].a @ alpha.mT, task[path].b @ beta.mT)
            for number, task in enumerate(tasks)
            if path in task
        ]
        for i, a, b in held:
            for j, other_a, other_b in held:
                inner[i, j] += ((a @ other_a.mT) * (b @ other_b.mT)).sum()
    norms = inner.diagonal().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    nearest = int((inner / norms / norms.unsqueeze(1)).sum(0).argmax())
    return refs[nearest], tasks[nearest]
