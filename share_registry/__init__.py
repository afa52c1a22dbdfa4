"""share_registry: version control for LoRA adapters.

Adapters of one base model go into one space. Each commit stores an adapter within a measured error
budget, as an immutable version. Nothing heavy is imported before it is used.

Other values that methods return are in `share_registry.values`, those of analyses in
`share_registry.analysis`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from share_registry.errors import (
        BudgetExceededError as BudgetExceededError,
        CatalogError as CatalogError,
        CommitInterrupted as CommitInterrupted,
        CommitStateUnknownError as CommitStateUnknownError,
        ConflictError as ConflictError,
        ConnectionLostError as ConnectionLostError,
        FormatError as FormatError,
        IntegrityError as IntegrityError,
        InvalidInputError as InvalidInputError,
        NotFoundError as NotFoundError,
        RefusedError as RefusedError,
        ShareRegistryError as ShareRegistryError,
        StoreError as StoreError,
    )
    from share_registry.exchange.adapter import Adapter as Adapter
    from share_registry.exchange.signatures import verify_export as verify_export
    from share_registry.registry.analysis.analyze import analyze as analyze
    from share_registry.registry.basis.basis import Basis as Basis
    from share_registry.registry.commands.prepare import Prepared as Prepared
    from share_registry.registry.materializer import Materializer as Materializer
    from share_registry.registry.pages import iterate as iterate
    from share_registry.registry.registry import Registry as Registry, Space as Space
    from share_registry.registry.transfer.copies import clone as clone
    from share_registry.routing.routing_index import RoutingIndex as RoutingIndex
    from share_registry.values.commits import Commit as Commit
    from share_registry.values.cost_reports import AdapterReport as AdapterReport
    from share_registry.values.imports import ImportSource as ImportSource
    from share_registry.values.policy import ABSENT as ABSENT, Policy as Policy
    from share_registry.values.references import ResolvedReference as ResolvedReference
    from share_registry.values.tasks import Task as Task

__version__ = "0.1.0"

_PLACES: Final = {
    "errors": (
        "BudgetExceededError CatalogError CommitInterrupted CommitStateUnknownError "
        "ConflictError ConnectionLostError FormatError IntegrityError InvalidInputError "
        "NotFoundError RefusedError ShareRegistryError StoreError"
    ),
    "exchange.adapter": "Adapter",
    "exchange.signatures": "verify_export",
    "registry.analysis.analyze": "analyze",
    "registry.basis.basis": "Basis",
    "registry.commands.prepare": "Prepared",
    "registry.materializer": "Materializer",
    "registry.pages": "iterate",
    "registry.registry": "Registry Space",
    "registry.transfer.copies": "clone",
    "routing.routing_index": "RoutingIndex",
    "values.policy": "ABSENT Policy",
    "values.commits": "Commit",
    "values.imports": "ImportSource",
    "values.references": "ResolvedReference",
    "values.cost_reports": "AdapterReport",
    "values.tasks": "Task",
}
_MODULES: Final = {name: module for module, names in _PLACES.items() for name in names.split()}
__all__ = tuple(_MODULES)


def __getattr__(name: str) -> Any:
    # only on request: some register a method with PEFT, or need Ray or transformers
    if name in ("analysis", "peft", "ray", "training", "transformers"):
        return import_module(f"share_registry.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"share_registry.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
