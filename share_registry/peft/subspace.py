"""The subspace to train in, and where training starts.

The frozen directions of every module are read from an open registry; the basis is named by its
digest, wherever that registry lies. Training starts from small noise, or from the coefficients of a
stored task.

dW = E_b^T E_a is bilinear: with both sides zero no gradient reaches either, so that nothing ever
starts from there. Noise is on both sides; where a stored task has less rank than is trained, the
spare rows are noise on side a and zero on side b, which changes no output and still receives a
gradient.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch

from share_registry.algebra.solve import svd
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import PREFIX
from share_registry.exchange.selection import plain_path
from share_registry.names import digest
from share_registry.outside.files import Outside
from share_registry.registry.basis.basis import read_basis
from share_registry.registry.registry import Registry

DEFAULT_RANK: Final = 8
# Why another place is tried for a basis whose digest is named.
_NOT_THERE: Final = (NotFoundError, IntegrityError, FormatError, CatalogError, RefusedError)
_TASK: Final = "task:"
# Singular values below this share of the largest are rounding of float64 sums.
_NEGLIGIBLE: Final = 1e-10

# A task's factors of one module, the scale in b: a (r, in), b (r, out), float64
Factors = tuple[torch.Tensor, torch.Tensor]
# Path -> alpha (k_a, in), beta (k_b, out), float64, orthonormal rows
Directions = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What training of one module starts with, float64.

    Attributes:
        eps_a: (p, k_a + phi).
        eps_b: (p, k_b + phi).
        extra_a: (phi, in).
        extra_b: (phi, out).
    """

    eps_a: torch.Tensor
    eps_b: torch.Tensor
    extra_a: torch.Tensor
    extra_b: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Subspace:
    """Where training takes place.

    Attributes:
        space: The space.
        basis: Digest of the basis object.
        extra_directions: phi.
        pseudo_rank: p.
        modules: Path in the plain model -> (alpha (k_a, in), beta (k_b, out)), float64, orthonormal
            rows.
        started_from: The task version that training starts from, `space/task@vN`; None for noise.
        starts: Path -> its factors a (r, in) and b (r, out), the scale in b; empty for noise.
    """

    space: str
    basis: str
    extra_directions: int
    pseudo_rank: int
    started_from: str | None
    modules: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(repr=False)
    starts: Mapping[str, Factors] = field(repr=False)


def read_subspace(
    registry: Registry,
    *,
    space: str | None,
    basis: str | None,
    init: str,
    extra_directions: int | None,
    pseudo_rank: int | None,
) -> Subspace:
    """Read the subspace that options of `ShareConfig` mean in a registry.

    Raises:
        NotFoundError: the registry does not have the basis, or the space has none.
        RefusedError: the basis has no module with directions on both sides.
        IntegrityError: the object is damaged.
    """
    if basis is None:
        current = (registry if space is None else registry.space(space)).basis()
        space, basis, modules = current.space, current.digest, current.modules
    else:
        if space is None:
            with registry.context.reading() as session:
                space = space_of(session, registry.scope)
        modules = read_basis(registry.context, digest(basis))
    directions = {
        plain_path(name, modules).removeprefix(PREFIX): (module.a, module.b)
        for name, module in modules.items()
        if len(module.a) and len(module.b)
    }
    ensure(
        directions,
        RefusedError(
            f"the basis {basis[:8]} of space {space!r} has no module with directions "
            "on both sides.",
            hint="Fit one to train in: registry.refit(max_rank=32, force=True).",
        ),
    )
    with registry.context.reading() as session:
        row = lookups.space_row(session, space)
    # a registry may have the basis and not the space: then no policy says phi and p
    phi, p = (int(row.phi), row.pseudo_rank) if row is not None else (0, None)
    started_from, starts = starts_of(init, registry, space, directions)
    return Subspace(
        space=space,
        basis=basis,
        extra_directions=phi if extra_directions is None else extra_directions,
        pseudo_rank=(
            pseudo_rank or p or max((len(a) for a, _ in starts.values()), default=DEFAULT_RANK)
        ),
        started_from=started_from,
        modules=directions,
        starts=starts,
    )


@contextmanager
def open_registry(location: str | None, store: str | None, basis: str | None) -> Iterator[Registry]:
    """Open the first registry that is there and has a basis.

    Tried are the one at `location`, then the one of $SHARE_REGISTRY_URI. Raises NotFoundError.
    """
    places: list[tuple[str | None, str | None]] = [(location, store)] if location else []
    if Outside().environment("SHARE_REGISTRY_URI") or not places:
        places.append((None, None))
    problems = []
    for place, place_store in places:
        try:
            registry = Registry.open(place, store=place_store, mode="r")
        except _NOT_THERE as error:
            problems.append(error.message)
            continue
        with registry:
            if basis is None or registry.context.store.has(digest(basis)):
                yield registry
                return
        problems.append(f"registry {place!r} has no basis {basis[:8]}.")
    sought = f"the basis {basis[:8]}" if basis else "the registry to train in"
    raise NotFoundError(
        f"{sought} was not found: {' '.join(problems)}",
        hint="Say where it is: ShareConfig.from_pretrained(..., registry=...) "
        "or $SHARE_REGISTRY_URI.",
    )


def starts_of(
    init: str, registry: Registry, space: str, modules: Directions
) -> tuple[str | None, dict[str, Factors]]:
    """Return the task version that `init` names, and its factors by module path.

    None and nothing for noise. Raises NotFoundError.
    """
    if init.startswith(_TASK):
        adapter = registry.space(space).checkout(init.removeprefix(_TASK))
        return adapter.ref, _factors(adapter, modules)
    if init == "nearest":
        return _medoid(registry, space, modules)
    return None, {}


def draw_noise(
    alpha: torch.Tensor,
    beta: torch.Tensor,
    *,
    p: int,
    phi: int,
    norm: float,
    generator: torch.Generator,
) -> Coefficients:
    """Draw small coefficients on both sides, and random directions orthogonal to the basis.

    With entries of variance s^2 on both sides, E |dW|^2 = s^4 p (k_a + phi) (k_b + phi): s is such
    that this is the square of `norm`.

    Args:
        alpha, beta: Directions (k_a, in), (k_b, out), float64.
        p: Pseudo-rank.
        phi: Extra directions.
        norm: Frobenius norm of dW.
        generator: Of everything random here, on the CPU.
    """
    k_a, k_b = len(alpha) + phi, len(beta) + phi
    size = _entry_size(norm, p, k_a, k_b)
    return Coefficients(
        eps_a=size * _normal(p, k_a, generator),
        eps_b=size * _normal(p, k_b, generator),
        extra_a=_beside(alpha, alpha[:0], phi, generator),
        extra_b=_beside(beta, beta[:0], phi, generator),
    )


def project_task(
    factors: Factors,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    *,
    p: int,
    phi: int,
    norm: float,
    generator: torch.Generator,
) -> Coefficients:
    """Project a task onto the subspace.

    The coefficients are exact where it lies there and has no more rank than p, else the best of
    that rank. Extra directions are those in which the task leaves the basis furthest; where it does
    not, random ones.
    """
    a, b = _balance(*factors)
    extra_a, extra_b = _beside(alpha, a, phi, generator), _beside(beta, b, phi, generator)
    inner_a, inner_b = a @ torch.cat([alpha, extra_a]).mT, b @ torch.cat([beta, extra_b]).mT
    eps_a, eps_b = (side[:p] for side in _balance(inner_a, inner_b))
    spare = p - len(eps_a)
    if spare:
        k_a, k_b = inner_a.shape[1], inner_b.shape[1]
        noise = _entry_size(norm, p, k_a, k_b) * _normal(spare, k_a, generator)
        eps_a = torch.cat([eps_a, noise])
        eps_b = torch.cat([eps_b, eps_b.new_zeros(spare, k_b)])
    return Coefficients(eps_a=eps_a, eps_b=eps_b, extra_a=extra_a, extra_b=extra_b)


def _entry_size(norm: float, p: int, k_a: int, k_b: int) -> float:
    """Return the s of entries on both sides at which dW has about this norm."""
    return float((norm / (p * k_a * k_b) ** 0.5) ** 0.5)


def _balance(a: torch.Tensor, b: torch.Tensor) -> Factors:
    """Return rows sqrt(S) V^T and sqrt(S) U^T of b^T a = U S V^T.

    There are as many as the rank, strongest first.
    """
    Q_a, R_a = torch.linalg.qr(a.mT)
    Q_b, R_b = torch.linalg.qr(b.mT)
    U, S, Vh = svd(R_b @ R_a.mT)
    rank = int((_NEGLIGIBLE * S.max() < S).sum()) if S.numel() else 0
    root = S[:rank].sqrt().unsqueeze(1)
    return root * (Vh[:rank] @ Q_a.mT), root * (U[:, :rank].mT @ Q_b.mT)


def _beside(
    basis: torch.Tensor, rows: torch.Tensor, phi: int, generator: torch.Generator
) -> torch.Tensor:
    """Return phi orthonormal directions orthogonal to a basis.

    The leading ones of what rows leave outside it, then random ones.
    """
    _, S, Vh = svd(rows - rows @ basis.mT @ basis)
    leading = Vh[: int((1e-6 * rows.norm() < S).sum())][:phi]
    spanned = torch.cat([basis, leading])
    drawn = _normal(phi - len(leading), basis.shape[1], generator)
    if basis.shape[1] - len(basis) >= phi:
        # twice: what is left of the first subtraction is not orthogonal to rounding
        for _ in range(2):
            drawn = drawn - drawn @ spanned.mT @ spanned
    return torch.cat([leading, torch.linalg.qr(drawn.mT)[0].mT]) if len(drawn) else leading


def _normal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64, device="cpu")


def _factors(adapter: Adapter, directions: Directions) -> dict[str, Factors]:
    """Return the factors of an adapter by path, without modules that have another shape there."""
    modules = {factor.module for factor in adapter.layout.factors}
    factors = {
        plain_path(pair.module, modules).removeprefix(PREFIX): (pair.a, pair.scale * pair.b)
        for pair in adapter.factor_pairs()
    }
    return {
        path: own
        for path, own in factors.items()
        if path not in directions
        or all(x.shape[1] == rows.shape[1] for x, rows in zip(own, directions[path], strict=True))
    }


def _medoid(registry: Registry, space: str, modules: Directions) -> tuple[str, dict[str, Factors]]:
    """Return the task whose dW, within the subspace and at unit norm, is nearest to all others'.

    There is nothing of the new task yet to be near to.
    """
    refs = [task.ref for task in registry.tasks(space)]
    tasks = [_factors(registry.space(space).checkout(ref), modules) for ref in refs]
    ensure(
        tasks,
        NotFoundError(f"space {space!r} has no task to start from.", hint="Use init='noise'."),
    )
    inner = torch.zeros(len(tasks), len(tasks), dtype=torch.float64, device="cpu")
    for path, (alpha, beta) in modules.items():
        coefficients = [
            (number, task[path][0] @ alpha.mT, task[path][1] @ beta.mT)
            for number, task in enumerate(tasks)
            if path in task
        ]
        for i, a_i, b_i in coefficients:
            for j, a_j, b_j in coefficients:
                inner[i, j] += ((a_i @ a_j.mT) * (b_i @ b_j.mT)).sum()
    norms = inner.diagonal().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    nearest = int((inner / norms / norms.unsqueeze(1)).sum(0).argmax())
    return refs[nearest], tasks[nearest]
