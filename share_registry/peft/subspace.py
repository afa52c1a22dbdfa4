"""The subspace that a config means.

The frozen directions of every module, read from the registry by digest and checked.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.resolution import space_of
from share_registry.errors import (
    CatalogError,
    FormatError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
)
from share_registry.exchange.scales import PREFIX, plain_path
from share_registry.names import digest
from share_registry.outside.files import Outside
from share_registry.peft.start import Start, starts_of
from share_registry.registry.basis.basis import read_basis
from share_registry.registry.registry import Registry

if TYPE_CHECKING:
    import torch

    from share_registry.peft.share_config import ShareConfig
    from share_registry.registry.basis.basis import BasisModule

DEFAULT_RANK: Final = 8
_NOT_THERE: Final = (NotFoundError, IntegrityError, FormatError, CatalogError, RefusedError)
"""Why another place is tried for a basis that is known by its digest."""


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
        starts: Path -> its factors; empty for noise.
    """

    space: str
    basis: str
    extra_directions: int
    pseudo_rank: int
    started_from: str | None
    modules: Mapping[str, "tuple[torch.Tensor, torch.Tensor]"] = field(repr=False)
    starts: Mapping[str, Start] = field(repr=False)


def subspace_of(config: "ShareConfig") -> Subspace:
    """Return the subspace of a config.

    Raises:
        NotFoundError: no registry has the basis, or the space has none.
        RefusedError: the basis has no module with directions on both sides.
        IntegrityError: the object is damaged.
    """
    with _registry_of(config) as registry:
        space, name, found = _basis_of(config, registry)
        modules = {
            _plain(name): (module.a, module.b)
            for name, module in found.items()
            if len(module.a) and len(module.b)
        }
        if not modules:
            raise RefusedError(
                f"the basis {name[:8]} of space {space!r} has no module with directions on both sides.",
                hint="Fit one to train in: registry.refit(max_rank=32).",
            )
        phi, p = _policy(registry, space)
        started_from, starts = starts_of(config.init, registry, space, modules)
    ranks = [len(start.a) for start in starts.values()]
    return Subspace(
        space=space,
        basis=name,
        extra_directions=config.extra_directions if config.extra_directions is not None else phi,
        pseudo_rank=config.pseudo_rank or p or max(ranks, default=DEFAULT_RANK),
        started_from=started_from,
        modules=modules,
        starts=starts,
    )


def _policy(registry: Registry, space: str) -> tuple[int, int | None]:
    """Return the phi and p of a space.

    Those of no policy where this registry has the basis, but not the space.
    """
    with registry.context.reading() as session:
        row = lookups.space_row(session, space)
    return (int(row.phi), row.pseudo_rank) if row is not None else (0, None)


def _basis_of(
    config: "ShareConfig", registry: Registry
) -> "tuple[str, str, Mapping[str, BasisModule]]":
    if config.basis is None:
        basis = _scoped(registry, config).basis()
        return str(basis.space), str(basis.digest), basis.modules
    with registry.context.reading() as session:
        space = config.space or space_of(session, registry.scope)
    return space, config.basis, read_basis(registry.context, digest(config.basis))


def _scoped(registry: Registry, config: "ShareConfig") -> Registry:
    return registry if config.space is None else registry.space(config.space)


@contextmanager
def _registry_of(config: "ShareConfig") -> Iterator[Registry]:
    """Open the first registry that is there and has the basis; one handed in open stays open."""
    if config.opened is not None:
        yield config.opened
        return
    problems = []
    for location, store in _places(config):
        try:
            registry = Registry.open(location, store=store, mode="r")
        except _NOT_THERE as error:
            problems.append(error)
            continue
        with registry:
            if config.basis is None or registry.context.store.has(digest(config.basis)):
                yield registry
                return
        problems.append(NotFoundError(f"registry {location!r} has no basis {config.basis[:8]}."))
    raise _not_found(config, problems)


def _places(config: "ShareConfig") -> list[tuple[str | None, str | None]]:
    places: list[tuple[str | None, str | None]] = (
        [(config.registry, config.store)] if config.registry else []
    )
    if Outside().environment("SHARE_REGISTRY_URI") or not places:
        places.append((None, None))
    return places


def _not_found(config: "ShareConfig", problems: Sequence[ShareRegistryError]) -> ShareRegistryError:
    tried = " ".join(problem.message for problem in problems)
    wanted = f"the basis {config.basis[:8]}" if config.basis else "the registry to train in"
    return NotFoundError(
        f"{wanted} was not found: {tried}",
        hint="Say where it is: ShareConfig.from_pretrained(..., registry=...) or $SHARE_REGISTRY_URI.",
    )


def _plain(module: str) -> str:
    return plain_path(module).removeprefix(PREFIX)


def check_shape(
    path: str, found: "tuple[torch.Tensor, torch.Tensor]", width: int, out: int
) -> None:
    """Check that directions fit a module of the model. Raises InvalidInputError."""
    if (found[0].shape[1], found[1].shape[1]) != (width, out):
        raise InvalidInputError(
            f"module {path!r} of the model is {out} x {width}, in the basis it is {found[1].shape[1]} x {found[0].shape[1]}.",
            hint="Use the base model that the space is for.",
        )
