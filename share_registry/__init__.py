"""share_registry: version control for LoRA adapters.

Adapters of one base model go into one space; each commit absorbs an adapter within a measured error
budget and becomes an immutable version. Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from share_registry.errors import (
        BudgetExceeded,
        CatalogError,
        CommitUnknown,
        Conflict,
        Format,
        Integrity,
        InvalidInput,
        NotFound,
        Refused,
        ShareRegistryError,
        StoreError,
    )
    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.analysis.analyze import analyze
    from share_registry.registry.basis.basis import Basis, BasisModule
    from share_registry.registry.materializer import Materializer
    from share_registry.registry.pages import every
    from share_registry.registry.registry import Registry, Space
    from share_registry.values.analyses import (
        AnalysedAdapter,
        Analysis,
        Continued,
        Forecast,
        Kinship,
        LeaveOneOut,
        Neighbour,
        Retention,
        RetentionCell,
        RetentionCommit,
        RetentionRow,
        Similar,
        Spectrum,
        Statement,
    )
    from share_registry.values.policy import ABSENT, Policy
    from share_registry.values.report import BasisModuleReport, BasisReport, ModuleReport, Report
    from share_registry.values.results import (
        Alias,
        AliasMove,
        Commit,
        Diff,
        Export,
        Finding,
        Lineage,
        LineageNode,
        Log,
        Resolved,
        SpaceSummary,
        Tag,
        Task,
        TaskDiff,
        VerifyReport,
    )

__version__ = "0.1.0"

_ERRORS = "BudgetExceeded CatalogError CommitUnknown Conflict Format Integrity InvalidInput NotFound Refused ShareRegistryError StoreError"
_RESULTS = "Alias AliasMove Commit Diff Export Finding Lineage LineageNode Log Resolved SpaceSummary Tag Task TaskDiff VerifyReport"
_REPORTS = "BasisModuleReport BasisReport ModuleReport Report"
_INSIGHTS = "AnalysedAdapter Analysis Continued Forecast Kinship LeaveOneOut Neighbour Retention RetentionCell RetentionCommit RetentionRow Similar Spectrum Statement"
_PLACES: Final = (
    dict.fromkeys(_ERRORS.split(), "share_registry.errors")
    | dict.fromkeys(_RESULTS.split(), "share_registry.values.results")
    | dict.fromkeys(_REPORTS.split(), "share_registry.values.report")
    | dict.fromkeys(_INSIGHTS.split(), "share_registry.values.analyses")
    | {
        "ABSENT": "share_registry.values.policy",
        "Basis": "share_registry.registry.basis.basis",
        "BasisModule": "share_registry.registry.basis.basis",
        "Adapter": "share_registry.exchange.adapter",
        "Materializer": "share_registry.registry.materializer",
        "Policy": "share_registry.values.policy",
        "Registry": "share_registry.registry.registry",
        "Space": "share_registry.registry.registry",
        "analyze": "share_registry.registry.analysis.analyze",
        "every": "share_registry.registry.pages",
    }
)

__all__ = [
    "ABSENT",
    "Adapter",
    "Alias",
    "AliasMove",
    "AnalysedAdapter",
    "Analysis",
    "Basis",
    "BasisModule",
    "BasisModuleReport",
    "BasisReport",
    "BudgetExceeded",
    "CatalogError",
    "Commit",
    "CommitUnknown",
    "Conflict",
    "Continued",
    "Diff",
    "Export",
    "Finding",
    "Forecast",
    "Format",
    "Integrity",
    "InvalidInput",
    "Kinship",
    "LeaveOneOut",
    "Lineage",
    "LineageNode",
    "Log",
    "Materializer",
    "ModuleReport",
    "Neighbour",
    "NotFound",
    "Policy",
    "Refused",
    "Registry",
    "Report",
    "Resolved",
    "Retention",
    "RetentionCell",
    "RetentionCommit",
    "RetentionRow",
    "ShareRegistryError",
    "Similar",
    "Space",
    "SpaceSummary",
    "Spectrum",
    "Statement",
    "StoreError",
    "Tag",
    "Task",
    "TaskDiff",
    "VerifyReport",
    "__version__",
    "analyze",
    "every",
]


def __getattr__(name: str) -> Any:
    if name == "peft":  # registers a method with PEFT: only on request
        return import_module("share_registry.peft")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
