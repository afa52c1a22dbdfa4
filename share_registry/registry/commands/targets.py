"""Which space a commit goes to, and under which policy."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from share_registry.catalog.queries import lookups
from share_registry.catalog.sql import Session
from share_registry.errors import NotFoundError, RefusedError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import BaseModelLabel, base_of, space_name_of
from share_registry.names import SpaceName, near_misses, space_name
from share_registry.values.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitTarget:
    """The space a commit goes to.

    Attributes:
        new: Whether it does not exist yet.
        labels: The base model's label and the other labels it is known by.
    """

    name: SpaceName
    base_revision: str | None
    labels: tuple[str, ...]
    policy: Policy
    new: bool = False


def find_target(session: Session, adapters: Iterable[Adapter], space: str | None) -> CommitTarget:
    """Return the space named, or else the one of the adapters' base model, which may be new.

    Raises:
        NotFoundError: a named space does not exist.
        RefusedError: no space is named and the adapters do not say one base model.
    """
    if space is not None:
        return existing_target(session, space_name(space))
    base = _one_base(adapters)
    spaces = [existing_target(session, name) for name in lookups.space_names(session)]
    fitting = [target for target in spaces if base.label in target.labels]
    if len(fitting) == 1:
        return fitting[0]
    name = space_name_of(base.label)
    if fitting or any(target.name == name for target in spaces):
        there = ", ".join(target.name for target in fitting) or f"{name} (of another base model)"
        raise RefusedError(
            f"base model {base.label!r} leads to no single space: {there}.",
            hint="Name the space with space= or -s.",
        )
    return CommitTarget(
        name=name, base_revision=base.revision, labels=(base.label,), policy=Policy(), new=True
    )


def check_base(target: CommitTarget, adapter: Adapter, *, allow_mismatch: bool) -> tuple[str, ...]:
    """Check that an adapter says the space's base model; return what is worth a remark.

    Raises RefusedError.
    """
    base = base_of(adapter.config)
    label, revision = base.label, base.revision
    if not label:
        return ("the adapter names no base model",)
    if label not in target.labels and not allow_mismatch:
        raise RefusedError(
            f"the adapter was trained on {label!r}, space {target.name!r} is of "
            f"{' or '.join(map(repr, target.labels))}.",
            hint="If it is the same model under another name, give allow_base_mismatch=True, "
            "or create the space with base_labels.",
        )
    if label not in target.labels:
        return (f"base model label {label!r} is not known to the space; accepted on request",)
    if revision and target.base_revision and revision != target.base_revision:
        return (f"base revision {revision!r} differs from the space's {target.base_revision!r}",)
    return ()


def existing_target(session: Session, name: SpaceName) -> CommitTarget:
    """Return a space that exists. Raises NotFoundError."""
    row = lookups.space_row(session, name)
    if row is None:
        raise NotFoundError(
            f"space {name!r} does not exist.",
            hint=near_misses(name, list(lookups.space_names(session)))
            + " Create it with create_space.",
        )
    return CommitTarget(
        name=name,
        base_revision=row.base_revision,
        labels=(row.base_model, *row.base_labels),
        policy=Policy(**{member.name: getattr(row, member.name) for member in fields(Policy)}),
    )


def _one_base(adapters: Iterable[Adapter]) -> BaseModelLabel:
    bases = sorted({base_of(adapter.config) for adapter in adapters}, key=str)
    labels = sorted({base.label for base in bases})
    if len(labels) > 1:
        raise RefusedError(
            "the adapters are of several base models: "
            f"{', '.join(label or 'none' for label in labels)}.",
            hint="Commit them space by space.",
        )
    if not labels[0]:
        raise RefusedError(
            "the adapter's config names no base model, so no space can be derived.",
            hint="Name the space with space= or -s.",
        )
    return bases[0]
