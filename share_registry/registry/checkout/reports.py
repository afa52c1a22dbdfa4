"""The report of one adapter, from its stored form alone: at commit as at any later look."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from share_registry.algebra.rate_distortion import Rows, bits_per_element, gaussian_rows
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.sql import Session
from share_registry.errors import NotFoundError
from share_registry.exchange.config import parse_config
from share_registry.exchange.tensors import factor_positions
from share_registry.format.adapter_object import SideBits, bits_of_modules
from share_registry.format.layout import Layout
from share_registry.look.units import count
from share_registry.names import Digest, Side, first_and_more
from share_registry.registry.checkout.factored import read_factored
from share_registry.registry.context import Context, with_basis_size
from share_registry.registry.stored_config import UndescribedError, read_config
from share_registry.stored import StoredAdapter, StoredSide
from share_registry.values.commits import Commit
from share_registry.values.cost_reports import AdapterReport, BasisModuleReport, ModuleReport
from share_registry.values.task_version import TaskVersion

# Target modules that are written out
_TARGETS: Final = 8


def with_details(
    context: Context,
    space: str,
    report: AdapterReport,
    stored: StoredAdapter,
    layout: Layout,
    rows: Rows,
    *,
    errors: Sequence[float],
    bits: Sequence[SideBits | None],
    new_basis: Digest | None = None,
) -> AdapterReport:
    """Add to a report what can be said of the adapter beyond its error.

    Args:
        context: The registry.
        space: The space.
        report: The report; its error is that of the whole adapter.
        stored: The adapter object.
        layout: Its layout.
        rows: Its modules as they decode, as Gaussian rows: their energies are those of the source
            but for the error.
        errors: Relative error of each module's dW.
        bits: Estimated of both factors of each module, None where it is kept bit for bit.
        new_basis: A basis that a refit would bring.
    """
    with context.catalog.begin() as session:
        names = [
            "the new basis" if digest == new_basis else source_name(session, space, digest)
            for digest in stored.sources
        ]
    modules = _module_reports(stored, layout, errors, bits, names)
    shapes = layout.modules()
    widths = [width for shape in shapes for width in (shape.in_, shape.out)]
    parameters = sum(shape.rank * (shape.in_ + shape.out) for shape in shapes)
    all_bits = sum(
        module.bits_per_parameter * module.rank * width
        for module, width in zip(modules, widths, strict=True)
    )
    return replace(
        report,
        untrained=report.untrained and bool(shapes),
        modules=modules,
        bits_per_parameter=all_bits / parameters if parameters else None,
        bits_bound=bits_per_element(*rows, budget=report.error) if report.error > 0 else None,
    )


@one_thread()
def with_modules(context: Context, commit: Commit, task: str | None = None) -> Commit:
    """Add to a commit the module reports of its tasks, or of one of them, read from the store."""
    commit = with_basis_size(context, commit)
    if commit.basis is not None:
        stored = context.reader().basis(commit.basis.digest)
        modules = tuple(
            BasisModuleReport(module=name, k_a=len(a), k_b=len(b))
            for name, (a, b) in stored.modules.items()
        )
        commit = replace(commit, basis=replace(commit.basis, modules=modules))
    return replace(
        commit,
        reports={
            name: _with_stored_details(context, commit, name, report)
            if task in (None, name)
            else report
            for name, report in commit.reports.items()
        },
    )


def describe_config(config: Mapping[str, object]) -> dict[str, str]:
    """Return what a config says of an adapter, for people: base model, r, alpha and targets."""
    targets = config.get("target_modules") or config.get("target_parameters") or ""
    names = [targets] if isinstance(targets, str) else sorted(map(str, iter(targets)))  # type: ignore[call-overload]
    said = {
        "base": config.get("base_model_name_or_path"),
        "r": _with_patterns(config, "r", "rank_pattern"),
        "alpha": _with_patterns(config, "lora_alpha", "alpha_pattern"),
        "targets": first_and_more(names, _TARGETS),
    }
    return {name: str(value) for name, value in said.items() if value}


def source_name(session: Session, space: str, digest: Digest) -> str:
    """Return what to call an object that is referred to: the commit that brought it.

    A basis is said to be one.
    """
    adapter = version_lookups.commit_of_adapter(session, space, digest)
    if adapter is not None:
        return f"c{adapter}"
    basis = lookups.commit_of_basis(session, space, digest)
    return f"basis c{basis}" if basis is not None else f"object {digest[:8]}"


def _module_reports(
    stored: StoredAdapter,
    layout: Layout,
    errors: Sequence[float],
    module_bits: Sequence[SideBits | None],
    names: Sequence[str],
) -> tuple[ModuleReport, ...]:
    reports = []
    for shape, module, error, coded, position in zip(
        layout.modules(),
        stored.modules,
        errors,
        module_bits,
        factor_positions(layout),
        strict=True,
    ):
        factor = layout.factors[position]
        # kept bit for bit: counted before the planes are compressed
        size_a, size_b = (layout.tensors[index].size_bytes for index in (factor.a, factor.b))
        bits_a, bits_b = coded or (8.0 * size_a / factor.experts, 8.0 * size_b / factor.experts)
        for side, width, bits in ((Side.A, shape.in_, bits_a), (Side.B, shape.out, bits_b)):
            elements = shape.rank * width
            reference = "lossless" if module is None else _references(module.side(side), names)
            reports.append(
                ModuleReport(
                    module=shape.module,
                    side=side.value,
                    reference=reference,
                    rank=shape.rank,
                    bits_per_parameter=bits / elements,
                    error=error,
                    bytes=round(bits / 8),
                )
            )
    return tuple(reports)


def _references(side: StoredSide, names: Sequence[str]) -> str:
    parts = ["previous"] if side.previous else []
    if side.terms:
        parts.append(f"rows of {', '.join(names[term.source] for term in side.terms)}")
    return " + ".join(parts) or "none"


def _with_patterns(config: Mapping[str, object], name: str, patterns: str) -> str:
    """Return a number of a config, and for how many patterns it is another."""
    value, others = config.get(name), config.get(patterns)
    if value is None:
        return ""
    kinds = [kind for kind in ("use_rslora", "use_dora") if config.get(kind) and name == "r"]
    parts = [str(value), *(kind.removeprefix("use_") for kind in kinds)]
    if isinstance(others, Mapping) and others:
        parts.append(f"{count(len(others), 'pattern')} with another")
    return ", ".join(parts)


def _settings(context: Context, row: TaskVersion) -> dict[str, str]:
    """Return what the config of a stored version says; nothing where it is gone."""
    try:
        return describe_config(parse_config(read_config(context, row)))
    except (NotFoundError, UndescribedError):
        return {}


def _with_stored_details(
    context: Context, commit: Commit, task: str, report: AdapterReport
) -> AdapterReport:
    with context.catalog.begin() as session:
        row = version_lookups.version_row(session, commit.space, task, commit.versions[task])
    if row is None or row.removed is not None:
        return report
    opened = context.reader().open(row.adapter_digest)
    try:
        pairs = read_factored(context, row).pairs
    except (NotFoundError, UndescribedError):
        # its config is not in the store, and with it the scales (spec NOT-06)
        return report
    return with_details(
        context,
        commit.space,
        replace(report, settings=_settings(context, row)),
        opened.stored,
        opened.layout,
        gaussian_rows(pairs if report.error > 0 else ()),
        errors=[module.error if module is not None else 0.0 for module in opened.stored.modules],
        bits=bits_of_modules(opened.stored.modules),
    )
