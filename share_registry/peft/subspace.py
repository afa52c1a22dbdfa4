"""The subspace to train in: the frozen directions of every module, and where training starts.

They are read from an open registry; the basis is named by its digest, wherever that registry lies.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.resolution import space_of
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
)
from share_registry.exchange.scales import PREFIX, plain_path
from share_registry.names import digest
from share_registry.outside.files import Outside
from share_registry.peft.start import Factors, starts_of
from share_registry.registry.basis.basis import read_basis
from share_registry.registry.registry import Registry

if TYPE_CHECKING:
    import torch

DEFAULT_RANK: Final = 8
# Why another place is tried for a basis whose digest is named.
_NOT_THERE: Final = (NotFoundError, IntegrityError, FormatError, CatalogError, RefusedError)


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
    modules: Mapping[str, "tuple[torch.Tensor, torch.Tensor]"] = field(repr=False)
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
        plain_path(name).removeprefix(PREFIX): (module.a, module.b)
        for name, module in modules.items()
        if len(module.a) and len(module.b)
    }
    if not directions:
        raise RefusedError(
            f"the basis {basis[:8]} of space {space!r} has no module with directions "
            "on both sides.",
            hint="Fit one to train in: registry.refit(max_rank=32).",
        )
    with registry.context.reading() as session:
        row = lookups.space_row(session, space)
    # a registry may have the basis and not the space: then no policy says phi and p
    phi, p = (int(row.phi), row.pseudo_rank) if row is not None else (0, None)
    started_from, starts = starts_of(init, registry, space, directions)
    rank = max((len(a) for a, _ in starts.values()), default=DEFAULT_RANK)
    return Subspace(
        space=space,
        basis=basis,
        extra_directions=phi if extra_directions is None else extra_directions,
        pseudo_rank=pseudo_rank or p or rank,
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
