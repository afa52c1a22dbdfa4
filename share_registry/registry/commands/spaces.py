"""Spaces: create them, set their policy, and find the one that a commit goes to."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache
from typing import Final

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.sql import Session
from share_registry.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.base_model import (
    BaseModelLabel,
    base_of,
    create_hint,
    is_local,
    space_name_of,
)
from share_registry.exchange.config import MAX_CONFIG_BYTES, parse_config
from share_registry.format.fields import decimal
from share_registry.format.notes import Note
from share_registry.format.records import (
    BOUNDED_DEPENDENTS,
    COMMIT_CHECKS,
    BaseModelBody,
    CreateRecord,
    PolicyBody,
    PolicyRecord,
)
from share_registry.names import CommitNumber, SpaceName, close_names, near_misses, space_name
from share_registry.registry.arguments import Said
from share_registry.registry.commands.annotate import publish_change
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.publish import Place, publish
from share_registry.registry.context import Context
from share_registry.store.protocol import Store
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy

_MAX_LABELS: Final = 64
_PATH_REMARK: Final = (
    "the space's base model is the path {!r} for ever: the next adapter that names the model "
    "otherwise is accepted with allow_base_mismatch (--allow-base-mismatch), once; to name it at "
    "first, create a space with base_model (--base-model) before the first commit"
)


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


@tells_of_interrupts
def create_space(
    context: Context,
    name: str,
    *,
    base_model: str | None = None,
    base_revision: str | None = None,
    base_labels: Sequence[str] = (),
    policy: Policy | None = None,
    exist_ok: bool = False,
    author: str | None = None,
) -> SpaceName:
    """Create a space as commit 1 of its log.

    Raises:
        InvalidInputError: malformed name or label.
        ConflictError: it exists (unless `exist_ok` and it says the same of the base model).
    """
    context.require_writable()
    space = space_name(name)
    label = base_model if base_model is not None else space
    _check_labels([label, *base_labels], base_revision)

    def build(session: Session, place: Place) -> CreateRecord | CommitNumber:
        if place["number"] != 1:
            if exist_ok:
                present = existing_target(session, space)
                _check_same_base(present, base_model, base_revision, base_labels)
            return CommitNumber(1)
        base = BaseModelBody(
            label=label, revision=base_revision, labels=sorted(set(base_labels) - {label})
        )
        return CreateRecord.model_validate(
            place | {"base_model": base} | _policy_members(policy or Policy())
        )

    commit = publish(context, space, build, note=Note(author=context.author_of(author)))
    if commit.created:
        context.say_created(f"created space {space} for base model {label}")
    ensure(
        commit.created or exist_ok,
        ConflictError(f"space {space!r} exists.", hint="Pick another name, or give exist_ok=True."),
    )
    return space


def set_policy(
    context: Context, space: str | None, policy: Policy, *, author: str | None
) -> Commit:
    """Publish a space's policy, which holds for later commits.

    Where it has that policy already, return the commit that set it. Raises NotFoundError.
    """

    def build(session: Session, place: Place) -> PolicyRecord | CommitNumber:
        if existing_target(session, name).policy == policy:
            return lookups.policy_change(session, name)[0]
        return PolicyRecord.model_validate(place | _policy_members(policy))

    context.require_writable()
    with context.reading() as session:
        name = space_of(session, space)
    return publish_change(context, name, build, Said(author=author))


def find_target(
    session: Session, store: Store, adapters: Iterable[Adapter], space: str | None
) -> CommitTarget:
    """Return the space named, or else the one of the adapters' base model, which may be new.

    Raises:
        NotFoundError: a named space does not exist.
        RefusedError: no space is named and the adapters do not say one base model.
    """
    spaces = [existing_target(session, name) for name in lookups.space_names(session)]
    if space is not None:
        return _named_target(space_name(space), spaces, adapters)
    base = _one_base(adapters)
    fitting = _of_base(session, store, spaces, base.label)
    ensure(
        len(fitting) <= 1,
        RefusedError(
            f"several spaces are of base model {base.label!r}.",
            hint="Name one of them: "
            f"{' or '.join(f'space={target.name!r}' for target in fitting[:8])}.",
        ),
    )
    return fitting[0] if fitting else _new_target(base, spaces)


def first_target(adapters: Iterable[Adapter], space: str | None) -> CommitTarget:
    """Return the space of the first adapters of a registry. Raises as `find_target`."""
    if space is not None:
        return _named_target(space_name(space), (), adapters)
    return _new_target(_one_base(adapters), ())


def spaces_of_base(session: Session, store: Store, label: str) -> list[CommitTarget]:
    """Return the spaces of a base model: created with its label, else those that accepted it."""
    spaces = [existing_target(session, name) for name in lookups.space_names(session)]
    return _of_base(session, store, spaces, label)


def _of_base(
    session: Session, store: Store, spaces: Sequence[CommitTarget], label: str
) -> list[CommitTarget]:
    return [target for target in spaces if label in target.labels] or [
        target for target in spaces if _was_accepted(session, store, target.name, label)
    ]


def _named_target(
    name: SpaceName, spaces: Sequence[CommitTarget], adapters: Iterable[Adapter]
) -> CommitTarget:
    """Return the space of a name. Raises NotFoundError, with how to create it for the adapters."""
    for target in spaces:
        if target.name == name:
            return target
    names = [target.name for target in spaces]
    labels = {base_of(adapter.config).label for adapter in adapters}
    fitting = [target.name for target in spaces if labels & {*target.labels}]
    hint = f"Did you mean {' or '.join(fitting[:3])}?" if fitting else near_misses(name, names)
    if not fitting and not close_names(name, names):
        # without a label, that of the space is its name, which adapters that say none fit
        label = min(filter(None, labels), default="")
        base_model = f", base_model={label!r}" if label else ""
        hint += f" Create it: create_space({name!r}{base_model})."
    raise NotFoundError(f"space {name!r} does not exist.", hint=hint)


def _new_target(base: BaseModelLabel, spaces: Sequence[CommitTarget]) -> CommitTarget:
    """Return the space that is created for a base model. Raises RefusedError."""
    names = [target.name for target in spaces]
    name = space_name_of(base.label, spaces=names)
    ensure(
        name not in names,
        RefusedError(
            f"no space is of base model {base.label!r}, and space {name!r} is of another.",
            hint=create_hint(base.label, spaces=names)
            + f" If it is the same model, give space={name!r} and allow_base_mismatch=True, once.",
        ),
    )
    return CommitTarget(
        name=name, base_revision=base.revision, labels=(base.label,), policy=Policy(), new=True
    )


def labels_known(session: Session, store: Store, target: CommitTarget) -> Callable[[str], bool]:
    """Return what tells whether a label is known to be of a space's base model.

    One that the space was not created with is known from the adapters accepted under it; it is
    looked for once.
    """

    @cache
    def is_known(label: str) -> bool:
        return label in target.labels or _was_accepted(session, store, target.name, label)

    return is_known


def check_base(
    target: CommitTarget,
    adapter: Adapter,
    *,
    is_known: Callable[[str], bool],
    allow_mismatch: bool,
) -> tuple[str, ...]:
    """Check that an adapter says the space's base model; return what is worth a remark.

    Args:
        target: The space.
        adapter: The adapter.
        is_known: What `labels_known` returns.
        allow_mismatch: Whether an unknown label is taken for another name of the base model.

    Raises RefusedError.
    """
    base = base_of(adapter.config)
    label, revision = base.label, base.revision
    if not label:
        return ("the adapter names no base model",)
    ensure(
        is_known(label) or allow_mismatch,
        RefusedError(
            f"the adapter was trained on {label!r}, space {target.name!r} is of "
            f"{' or '.join(map(repr, target.labels))}.",
            hint="If it is the same model under another name, give allow_base_mismatch=True, "
            "once: the space then knows the name.",
        ),
    )
    if label not in target.labels:
        how = "that of earlier adapters here" if is_known(label) else "accepted on request"
        return (f"base model label {label!r} is not one that the space was created with; {how}",)
    if target.new and is_local(label):
        return (_PATH_REMARK.format(label),)
    if revision and target.base_revision and revision != target.base_revision:
        return (f"base revision {revision!r} differs from the space's {target.base_revision!r}",)
    return ()


def _was_accepted(session: Session, store: Store, space: SpaceName, label: str) -> bool:
    """Tell whether an adapter of a space names a base model, as far as their configs are there.

    A space's record says for ever what it was created with, so that this is how it learns more.
    """
    for digest in version_lookups.config_digests(session, space):
        with suppress(NotFoundError, IntegrityError, InvalidInputError):
            config = parse_config(store.get_or_spare(digest, limit=MAX_CONFIG_BYTES))
            if label and base_of(config).label == label:
                return True
    return False


def existing_target(session: Session, name: SpaceName) -> CommitTarget:
    """Return a space that exists. Raises NotFoundError."""
    row = lookups.space_row(session, name)
    if row is None:
        raise NotFoundError(
            f"space {name!r} does not exist.", hint=near_misses(name, lookups.space_names(session))
        )
    return CommitTarget(
        name=name,
        base_revision=row.base_revision,
        labels=(row.base_model, *row.base_labels),
        policy=Policy(**{member.name: getattr(row, member.name) for member in fields(Policy)}),
    )


def _policy_members(policy: Policy) -> dict[str, object]:
    """Return a policy as a record says it, and what a reader must know of that."""
    features = {
        BOUNDED_DEPENDENTS: policy.max_dependents is not None,
        COMMIT_CHECKS: bool(policy.require),
    }
    body = PolicyBody(
        budget=decimal(policy.budget),
        keep_original=policy.keep_original,
        references=policy.references,
        refit=policy.refit,
        pseudo_rank=policy.pseudo_rank,
        k=policy.k,
        phi=policy.phi,
        max_dependents=policy.max_dependents,
        require=list(policy.require),
    )
    return {"policy": body, "requires": [name for name, is_used in features.items() if is_used]}


def _check_labels(labels: Sequence[str], revision: str | None) -> None:
    for label in labels:
        ensure(
            isinstance(label, str) and 1 <= len(label) <= 512 and label.isprintable(),
            InvalidInputError(
                f"base model label {str(label)[:80]!r} is not 1 to 512 printable characters.",
                hint="Use the Hub id or a short name.",
            ),
        )
    ensure(
        len(labels) <= _MAX_LABELS,
        InvalidInputError(
            f"{len(labels)} base labels, at most {_MAX_LABELS} are allowed.",
            hint="Keep those that adapters really carry.",
        ),
    )
    if revision is not None and (not 1 <= len(revision) <= 128 or not revision.isprintable()):
        raise InvalidInputError(
            f"base revision {revision[:80]!r} is not 1 to 128 printable characters.",
            hint="Use the commit hash of the base model.",
        )


def _check_same_base(
    space: CommitTarget, label: str | None, revision: str | None, labels: Sequence[str]
) -> None:
    if (
        (label is not None and label not in space.labels)
        or (revision is not None and revision != space.base_revision)
        or not set(labels) <= set(space.labels)
    ):
        at_revision = f" at {space.base_revision}" if space.base_revision else ""
        raise ConflictError(
            f"space {space.name!r} exists with base model {', '.join(space.labels)}{at_revision}.",
            hint="Pick another name.",
        )


def _one_base(adapters: Iterable[Adapter]) -> BaseModelLabel:
    bases = sorted({base_of(adapter.config) for adapter in adapters}, key=str)
    labels = sorted({base.label for base in bases})
    ensure(
        len(labels) <= 1,
        RefusedError(
            "the adapters are of several base models: "
            f"{', '.join(label or 'none' for label in labels)}.",
            hint="Commit them space by space.",
        ),
    )
    ensure(
        labels[0],
        RefusedError(
            "the adapter's config names no base model, so no space can be derived.",
            hint="Name one that is there with space= or -s, or create one: "
            "create_space('my-base', base_model='...'), and name that.",
        ),
    )
    return bases[0]
