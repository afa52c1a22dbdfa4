"""The report of one adapter, from its stored form alone.

At commit and, the same, at any later look.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.format.adapter_object import bits_of
from share_registry.format.layout import Layout
from share_registry.names import Digest, Side
from share_registry.registry.checkout.factored import stored_member
from share_registry.registry.context import with_basis_size
from share_registry.stored import StoredAdapter, StoredModule, StoredSide
from share_registry.values.commits import AdapterReport, BasisModuleReport, Commit, ModuleReport

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session
    from share_registry.exchange.factor_pairs import FactorPair
    from share_registry.registry.context import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDetails:
    """What a report says of an adapter beyond its error: see `Report`."""

    modules: tuple[ModuleReport, ...]
    bits_per_parameter: float | None
    bits_bound: float | None

    def on(self, report: AdapterReport) -> AdapterReport:
        """Return a report that says it too."""
        return replace(
            report,
            modules=self.modules,
            bits_per_parameter=self.bits_per_parameter,
            bits_bound=self.bits_bound,
        )


def described(
    stored: StoredAdapter,
    layout: Layout,
    decoded: "Sequence[FactorPair]",
    *,
    error: float,
    errors: Sequence[float],
    names: Sequence[str],
) -> ReportDetails:
    """Describe an adapter as it is stored.

    Args:
        stored: The adapter object.
        layout: Its layout.
        decoded: Its modules as they decode: their energies are those of the source but for the
            error.
        error: The recorded error of the adapter.
        errors: Relative error of each module's dW.
        names: What to call the sources referred to.
    """
    from share_registry.algebra.rate_distortion import bound

    modules = module_reports(stored, layout, errors, names)
    parameters = sum(shape.rank * (shape.in_ + shape.out) for shape in layout.modules())
    bits = sum(
        module.bits_per_parameter * module.rank * width
        for module, width in zip(modules, _widths(layout), strict=True)
    )
    return ReportDetails(
        modules=modules,
        bits_per_parameter=bits / parameters if parameters else None,
        bits_bound=bound(decoded, budget=error) if error > 0 else None,
    )


def module_reports(
    stored: StoredAdapter, layout: Layout, errors: Sequence[float], names: Sequence[str]
) -> tuple[ModuleReport, ...]:
    """Describe every module and side.

    Args:
        stored: The adapter object.
        layout: Its layout.
        errors: Relative error of each module's dW.
        names: What to call the sources referred to.
    """
    made = []
    for shape, module, error in zip(layout.modules(), stored.modules, errors, strict=True):
        for side, width in ((Side.A, shape.in_), (Side.B, shape.out)):
            reference, bits = (
                _coded(module, side, names)
                if module is not None
                else ("lossless", _raw_bits(layout, shape.module, side) * shape.rank * width)
            )
            made.append(
                ModuleReport(
                    module=shape.module,
                    side=side.value,
                    reference=reference,
                    rank=shape.rank,
                    bits_per_parameter=bits / (shape.rank * width),
                    error=error,
                    bytes=round(bits / 8),
                )
            )
    return tuple(made)


def with_modules(context: "Context", commit: Commit, task: str | None = None) -> Commit:
    """Return a commit with the module reports of its tasks, or of one of them, read from the store."""
    wanted = {name: report for name, report in commit.reports.items() if task in (None, name)}
    commit = _with_directions(context, with_basis_size(context, commit))
    return replace(
        commit,
        reports={
            **commit.reports,
            **{name: _whole(context, commit, name, report) for name, report in wanted.items()},
        },
    )


def _with_directions(context: "Context", commit: Commit) -> Commit:
    """Return a commit that says how many directions the basis has that it brought."""
    if commit.basis is None:
        return commit
    found = context.reader().basis(commit.basis.digest).modules
    modules = tuple(
        BasisModuleReport(module=name, k_a=len(a), k_b=len(b)) for name, (a, b) in found.items()
    )
    return replace(commit, basis=replace(commit.basis, modules=modules))


def _whole(context: "Context", commit: Commit, task: str, report: AdapterReport) -> AdapterReport:
    with context.catalog.begin() as session:
        row = lookups.version_row(session, commit.space, task, commit.versions[task])
    if row is None:
        return report
    opened = context.reader().open(row.adapter_digest)
    errors = [module.error if module is not None else 0.0 for module in opened.stored.modules]
    with context.catalog.begin() as session:
        names = called(session, commit.space, opened.stored.sources)
    decoded = stored_member(context, row).pairs
    return described(
        opened.stored, opened.layout, decoded, error=report.error, errors=errors, names=names
    ).on(report)


def called(session: "Session", space: str, sources: Sequence[Digest]) -> list[str]:
    """Return what to call objects that are referred to.

    The commits that brought them, and which of them are a basis.
    """
    return [_called(session, space, digest) for digest in sources]


def _called(session: "Session", space: str, digest: Digest) -> str:
    adapter = lookups.commit_of_adapter(session, space, digest)
    if adapter is not None:
        return f"c{adapter}"
    basis = lookups.commit_of_basis(session, space, digest)
    return f"basis c{basis}" if basis is not None else f"basis {digest[:8]}"


def _widths(layout: Layout) -> list[int]:
    return [width for shape in layout.modules() for width in (shape.in_, shape.out)]


def _coded(module: StoredModule, side: Side, names: Sequence[str]) -> tuple[str, float]:
    stored = module.side(side)
    return _reference(stored, names), bits_of(stored)


def _reference(side: StoredSide, names: Sequence[str]) -> str:
    rows = f"rows of {', '.join(names[term.source] for term in side.terms)}" if side.terms else ""
    return (
        " + ".join(part for part in ("previous" if side.previous else "", rows) if part) or "none"
    )


def _raw_bits(layout: Layout, module: str, side: Side) -> int:
    """Bits of one element of a factor that is kept bit for bit, before the planes are compressed."""
    name = module.rpartition("#")[0] or module
    factor = next(factor for factor in layout.factors if factor.module in (module, name))
    return layout.tensors[factor.a if side is Side.A else factor.b].dtype.size_bytes * 8
