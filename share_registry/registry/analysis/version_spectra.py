"""The spectra of one version: how much of its dW the first directions hold."""

import torch

from share_registry.algebra.comparison import weighted
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries.resolution import version_of
from share_registry.names import Side
from share_registry.registry.analysis.analyze import spectrum_of
from share_registry.registry.checkout.factored import read_factored
from share_registry.registry.context import Context
from share_registry.values.analyses import Spectrum


@one_thread()
def version_spectra(context: Context, ref: str, *, space: str | None) -> tuple[Spectrum, ...]:
    """Return the spectrum of dW of each module of a version, those whose dW is 0 apart.

    The energies are the squared singular values of dW, which are the same for A and for B: each is
    given once, as of A.

    Args:
        context: The registry.
        ref: The version.
        space: The space of a reference that names none.

    Raises NotFoundError, IntegrityError, InvalidInputError.
    """
    with context.reading() as session:
        row = version_of(session, ref, space=space)
    modules = weighted(read_factored(context, row).pairs)
    return tuple(
        spectrum_of(name, Side.A, [module.a / torch.linalg.vector_norm(module.a)])
        for name, module in modules.items()
    )
