"""What a commit says of its cost: the report of an adapter, of its modules, and of a basis."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from typing_extensions import override

from share_registry.look.units import count, percent, size, typed_percent
from share_registry.names import Digest
from share_registry.values.module_plot import plot_modules
from share_registry.values.sheet import Sheet, Shown, optional_percent
from share_registry.values.text_table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleReport:
    """One factor as stored.

    Attributes:
        module: Module path as in the adapter's keys.
        side: "a" or "b".
        reference: What the own rows are coded against: "none", "previous", "rows of c2, c5", or
            "lossless".
        rank: Rows of the factor.
        bits_per_parameter: Coded bits of own rows, coefficients and scales over r * width (an
            entropy estimate: frames are shared by factors of like statistics).
        error: Relative error of the module's dW (the same for both sides).
        bytes: Coded bytes, estimated alike.
    """

    module: str
    side: str
    reference: str
    rank: int
    bits_per_parameter: float
    error: float
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AdapterReport(Shown):
    """What a commit did to one adapter.

    Attributes:
        error: Pooled relative Frobenius error of scaled dW of the adapter exactly as native export
            gives it back, or an upper bound of it.
        budget: The largest error allowed; 0 is lossless, None no limit.
        bytes_added: Bytes of new objects in the store.
        raw_bytes: Bytes of the adapter's tensor file.
        modules: Per module and side; empty in a log.
        notes: What was not kept or is worth knowing.
        bound: Whether `error` is an upper bound: a refit of a task whose source is not kept.
        before: The error of the version before, where a refit made this one.
        bits_per_parameter, bits_bound: Of all modules, and what Gaussian rows need at least for
            that error without references; None in a log.
        settings: What the config says of the adapter: base model, r, alpha and targets; empty in a
            log.
        untrained: Whether the update it makes is 0: as before training, or where its config
            selects none of its factors.
    """

    derived = ("worst_module",)
    plot = plot_modules
    error: float
    budget: float | None
    bytes_added: int
    raw_bytes: int
    modules: tuple[ModuleReport, ...] = ()
    bits_per_parameter: float | None = None
    bits_bound: float | None = None
    notes: tuple[str, ...] = ()
    bound: bool = False
    before: float | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    untrained: bool = False

    def __str__(self) -> str:
        """Return it as one line: `error 4.93 % of a 5 % budget, 33 kB for 295 kB`."""
        return f"{self.fidelity}, {size(self.bytes_added)} for {size(self.raw_bytes)}"

    @property
    def fidelity(self) -> str:
        """How near the stored adapter is to the one given: `error 4.93 % of a 5 % budget`."""
        if self.error == 0:
            return "its update is 0, lossless" if self.untrained else "lossless"
        limit = "without a limit"
        if self.budget is not None:
            limit = f"of a {typed_percent(self.budget)} budget"
        before = "" if self.before is None else f" ({percent(self.before)} before)"
        error = f"{'at most ' if self.bound else ''}{percent(self.error, up=self.bound)}"
        return f"error {error}{before} {limit}"

    @property
    def worst_module(self) -> ModuleReport | None:
        """The module of the largest error, None where modules are not listed."""
        return max(self.modules, key=lambda module: module.error, default=None)

    @override
    def sheet(self) -> Sheet:
        return Sheet(
            title=str(self),
            facts=rate_facts(self),
            tables=(module_table({"": self}),),
            notes=self.notes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisModuleReport:
    """The directions of one module.

    Attributes:
        module: Module path as in the adapters' keys.
        k_a, k_b: Directions of either side.
        captured_a, captured_b: Share of the tasks' energy in them; None where the basis was not
            fitted just now.
    """

    module: str
    k_a: int
    k_b: int
    captured_a: float | None = None
    captured_b: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BasisReport:
    """A basis that a commit brought.

    Attributes:
        digest: Its object.
        size_bytes: Bytes of the object; None where it is not in the store.
        modules: Its directions; empty in a log.
        saved_bytes: How many fewer bytes the tasks take that were re-expressed in it.
        saved_bytes_per_task: How many fewer a task to come is expected to take: measured on some
            tasks, each coded with a basis of the others. This and the one before only of a commit
            just made, None where nothing was re-expressed or judged.
    """

    digest: Digest
    size_bytes: int | None
    modules: tuple[BasisModuleReport, ...] = ()
    saved_bytes: int | None = None
    saved_bytes_per_task: int | None = None


def rate_facts(report: AdapterReport) -> tuple[tuple[str, str], ...]:
    """Return the bits per parameter beside what Gaussian rows need, as a fact."""
    if report.bits_per_parameter is None:
        return ()
    rate = f"{report.bits_per_parameter:.2f} bits per parameter"
    if report.bits_bound is not None:
        rate += f" ({report.bits_bound:.2f} for Gaussian rows without references)"
    return (("rate", rate),)


def adapter_facts(report: AdapterReport) -> list[tuple[str, str]]:
    """Return what the config says of an adapter, how near it is kept, and what it takes."""
    share = f" ({percent(report.bytes_added / report.raw_bytes)})" if report.raw_bytes else ""
    return [
        *report.settings.items(),
        ("kept", report.fidelity),
        ("size", f"{size(report.bytes_added)} for {size(report.raw_bytes)}{share}"),
        *rate_facts(report),
    ]


def describe_basis(basis: BasisReport | None) -> str:
    """Return what a basis takes: `24 modules with 16 directions a side, 133 kB`."""
    if basis is None:
        return ""
    stored = "not in the store" if basis.size_bytes is None else size(basis.size_bytes)
    ks = sorted({k for module in basis.modules for k in (module.k_a, module.k_b)})
    if not ks:
        return stored
    directions = f"{ks[0]}" if len(ks) == 1 else f"{ks[0]} to {ks[-1]}"
    ways = f"{count(len(basis.modules), 'module')} with {directions} directions a side, {stored}"
    return f"{ways}{_gain(basis)}"


def _gain(basis: BasisReport) -> str:
    """Return what a basis saves: `; saves 1.0 kB a task to come, pays from 132 on`."""
    gains = []
    if basis.saved_bytes is not None:
        gains.append(f"{_saves(basis.saved_bytes)} on the tasks re-expressed in it")
    later = basis.saved_bytes_per_task
    if later is not None:
        gains.append(f"{_saves(later)} a task to come")
    if later and basis.size_bytes:
        gains.append(f"pays from {ceil(basis.size_bytes / later)} of these on")
    return "".join(f"; {gain}" for gain in gains)


def _saves(saved_bytes: int) -> str:
    if saved_bytes > 0:
        return f"saves {size(saved_bytes)}"
    return f"takes {size(-saved_bytes)} more" if saved_bytes else "saves nothing"


def basis_table(basis: BasisReport | None) -> Table:
    """Return the modules of a basis, a row each."""
    return Table.of(
        {
            "module": module.module,
            "k of a>": str(module.k_a),
            "k of b>": str(module.k_b),
            "energy in a>": optional_percent(module.captured_a),
            "energy in b>": optional_percent(module.captured_b),
        }
        for module in (basis.modules if basis else ())
    )


def module_table(reports: Mapping[str, AdapterReport]) -> Table:
    """Return the modules of adapters, a row a factor."""
    return Table.of(
        (
            ({"task": task} if len(reports) > 1 else {})
            | {
                "module": module.module,
                "side": module.side,
                "reference": module.reference,
                "rank>": str(module.rank),
                "bits/parameter>": f"{module.bits_per_parameter:.2f}",
                "error>": percent(module.error),
                "bytes>": size(module.bytes),
            }
            for task, report in reports.items()
            for module in report.modules
        ),
        spare=("rank>", "bits/parameter>"),
        by_ending=True,
    )
