"""The basis of a space: the directions that its tasks share, as anybody can use them.

Stored are integer rows; returned are orthonormal rows that span exactly the same space, by QR, in
the order of the energy they capture.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from typing_extensions import override

from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import At, number_at
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.errors import NotFoundError
from share_registry.format.symbols import Ints
from share_registry.look.units import count, size
from share_registry.names import CommitNumber, Digest, SpaceName
from share_registry.registry.context import Context
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisModule:
    """The directions of one module.

    Attributes:
        a: float64 (k_a, in), orthonormal rows for side A.
        b: float64 (k_b, out), orthonormal rows for side B.
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis(Shown):
    """A basis of a space.

    Attributes:
        space: The space.
        number: The commit that made it.
        digest: Its object.
        size_bytes: Bytes of the object.
        modules: By module name, as PEFT's keys call it.
    """

    space: SpaceName
    number: CommitNumber
    digest: Digest
    size_bytes: int
    modules: Mapping[str, BasisModule] = field(repr=False)

    @property
    def ranks(self) -> dict[str, tuple[int, int]]:
        """(k_a, k_b) of every module."""
        return {name: (len(module.a), len(module.b)) for name, module in self.modules.items()}

    @override
    def sheet(self) -> Sheet:
        ref = f"{self.space}/@c{self.number}"
        return Sheet(
            title=f"{ref}: a basis of {count(len(self.modules), 'module')}",
            facts=(("size", size(self.size_bytes)), ("object", self.digest)),
            tables=(
                Table.of(
                    {"module": name, "k of a>": str(a), "k of b>": str(b)}
                    for name, (a, b) in self.ranks.items()
                ),
            ),
            refs=(ref,),
        )


@one_thread()
def basis(context: Context, space: str | None, *, at: At | None = None) -> Basis:
    """Return the basis that commits to a space are coded with, now or as of a commit or moment.

    Raises:
        NotFoundError: the space has none then.
        IntegrityError: its object is damaged or missing.
    """
    with context.reading() as session:
        where = space_of(session, space)
        current = lookups.current_basis(
            session, where, at=None if at is None else number_at(session, where, at)
        )
    if current is None:
        raise NotFoundError(
            f"space {where!r} has no basis{'' if at is None else ' at that moment'}.",
            hint="Make one with refit, or give several adapters to one commit.",
        )
    return Basis(
        space=where,
        number=current.number,
        digest=current.digest,
        size_bytes=len(context.store.get(current.digest)),
        modules=read_basis(context, current.digest),
    )


def read_basis(context: Context, digest: Digest) -> dict[str, BasisModule]:
    """Return the orthonormal rows of a basis object. Raises IntegrityError."""
    return {
        name: BasisModule(a=orthonormal(a), b=orthonormal(b))
        for name, (a, b) in context.reader().basis(digest).modules.items()
    }


def orthonormal(rows: Ints) -> torch.Tensor:
    """Return orthonormal float64 rows that span integer rows (k, m).

    Each is turned towards the row it comes from.
    """
    Q, R = torch.linalg.qr(torch.from_numpy(rows).to(torch.float64).mT)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).to(torch.float64)
    turned: torch.Tensor = (Q * signs).mT.contiguous()
    return turned
