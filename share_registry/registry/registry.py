"""The public facade: one method a verb, no logic.

Imports stand in the methods, so that reading the log loads neither torch nor numpy.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from share_registry.registry import subspace
from share_registry.registry.doors import FilePath, Ref, guarded, reference, references
from share_registry.registry.policy import Policy
from share_registry.registry.results import (
    Alias,
    AliasMove,
    Commit,
    Diff,
    Export,
    Lineage,
    Log,
    Resolved,
    SpaceSummary,
    Tag,
    Task,
    VerifyReport,
)

if TYPE_CHECKING:
    from datetime import date, datetime

    import torch

    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.home import Home
    from share_registry.registry.space import Space
    from share_registry.registry.verify import Progress


@guarded
class Registry:
    """A store of bytes and a catalog over it, made by `Registry.open`.

    A context manager, safe for threads, and after a fork with no other thread in a call.
    """

    def __init__(self, home: "Home") -> None:
        self._home = home

    @classmethod
    def open(
        cls,
        location: FilePath | None = None,
        *,
        store: FilePath | None = None,
        space: str | None = None,
        mode: str = "c",
        device: str | None = None,
    ) -> Self:
        """Open a registry.

        Args:
            location: A directory, or the SQLAlchemy URL of a catalog together with `store`.
                Default: $SHARE_REGISTRY_URI, else ./share-registry.
            store: Directory of the store, with a catalog URL. Default: $SHARE_REGISTRY_STORE.
            space: Space of calls and references that name none. Default: $SHARE_REGISTRY_SPACE,
                else the only one.
            mode: "r" never writes anything and works on read-only media, "w" writes, "c" creates
                what is missing.
            device: Where commits and refits are computed. Default: $SHARE_REGISTRY_DEVICE, else
                cpu. Errors are measured, and versions read, alike on all.

        Raises InvalidInput, NotFound or Refused where an argument is not usable, Format or
        CatalogError where store or catalog are of another version.
        """
        from share_registry.outside import Outside
        from share_registry.registry.home import open_home

        return cls(
            open_home(
                location, store=store, space=space, mode=mode, outside=Outside(), device=device
            )
        )

    @property
    def location(self) -> str:
        """The directory or catalog URL, without a password."""
        return self._home.location

    @property
    def home(self) -> "Home":
        """What every verb works on; for modules of this package."""
        return self._home

    def close(self) -> None:
        """Close the catalog's connections."""
        self._home.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Registry({self.location!r}, mode={'w' if self._home.writable else 'r'!r})"

    def space(self, name: str) -> "Space":
        """Return a space: the same verbs without `space=`. Raises NotFound."""
        from share_registry.registry.space import Space

        return Space(self, name)

    def spaces(self) -> list[SpaceSummary]:
        """Return every space."""
        from share_registry.registry.reading import spaces

        return spaces(self._home)

    def create_space(
        self,
        name: str,
        *,
        base_model: str | None = None,
        base_revision: str | None = None,
        base_labels: Sequence[str] = (),
        policy: Policy | None = None,
        exist_ok: bool = False,
    ) -> "Space":
        """Create a space for the adapters of one base model.

        Args:
            name: 1 to 64 of a-z 0-9 . _ -.
            base_model: Label of the base model, the name where None; `base_revision` is its commit
                hash.
            base_labels: Other labels the same model goes by (mirrors, quantised copies, local
                paths); policy: defaults of its commits.
            exist_ok: An existing space of the same base model is success, otherwise Conflict.
        """
        from share_registry.registry.spaces import create_space

        made = create_space(
            self._home,
            name,
            base_model=base_model,
            base_revision=base_revision,
            base_labels=base_labels,
            policy=policy,
            exist_ok=exist_ok,
        )
        return self.space(made)

    def set_policy(self, space: str, policy: Policy) -> Commit:
        """Set the policy of a space for later commits.

        Where it has that policy, return the commit that set it. Raises NotFound.
        """
        from share_registry.registry.spaces import set_policy

        return set_policy(self._home, space, policy)

    def commit(
        self,
        adapter: "str | os.PathLike[str] | Adapter | Any",
        *,
        task: str | None = None,
        space: str | None = None,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        derived_from: Ref | Sequence[Ref] = (),
        keep_original: bool | None = None,
        adapter_name: str | None = None,
        expected: int | None = None,
        idempotency_key: str | None = None,
        allow_base_mismatch: bool = False,
        allow_duplicate: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """Absorb an adapter as the next version of a task.

        Args:
            adapter: A PEFT directory, `hf://owner/repo[@revision]`, a live `peft.PeftModel` (needs
                `task`) or an `Adapter` (needs `task`).
            task: Task name; derived from the directory's or repository's name where None.
            space: An existing space; where None the session's, else the one of the adapter's base
                model, created on first use.
            budget: Largest pooled relative error of scaled dW, 0 to keep every bit; the space's
                policy where None.
            message, author, labels, metrics: Why, who (self-declared), names with texts, and other
                names with numbers.
            derived_from: References of the task versions it was made from.
            keep_original: Keep the files as they are beside it; the space's policy where None.
            adapter_name: Which adapter of a live model; the active one where None.
            expected: The task's newest version must be this one; `ABSENT`: there must be none.
            idempotency_key: A retry with the same key never makes a second commit; Conflict where
                the key's commit holds other adapters.
            allow_base_mismatch: Accept an adapter whose config names an unknown base model.
            allow_duplicate: Make a version even if the adapter is the task's newest one, kept as
                well as asked; else that commit is returned, `.created` False, and what is said of
                it (labels, message, ...) is not recorded: use `annotate`.
            dry_run: Measure and report, write nothing.

        Raises:
            InvalidInput, NotFound, Refused, BudgetExceeded, Conflict, StoreError: nothing was
                committed.
            CommitUnknown: the store failed in mid-publication; retry with the key.
        """
        from share_registry.registry.commit import Options, commit_sources

        options = Options(
            budget=budget,
            message=message,
            author=author,
            labels=labels or {},
            metrics=metrics or {},
            derived_from=references(derived_from),
            keep_original=keep_original,
            expected=expected,
            idempotency_key=idempotency_key,
            allow_base_mismatch=allow_base_mismatch,
            allow_duplicate=allow_duplicate,
            dry_run=dry_run,
        )
        return commit_sources(
            self._home, [(task, adapter)], space=space, options=options, adapter_name=adapter_name
        )

    def commit_many(
        self,
        adapters: "Mapping[str, str | os.PathLike[str] | Adapter | Any]",
        *,
        space: str | None = None,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        derived_from: Ref | Sequence[Ref] = (),
        keep_original: bool | None = None,
        idempotency_key: str | None = None,
        allow_base_mismatch: bool = False,
        allow_duplicate: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """Absorb several adapters as one commit, all or nothing.

        Arguments as in `commit`, adapters by task name.
        """
        from share_registry.registry.commit import Options, commit_sources

        options = Options(
            budget=budget,
            message=message,
            author=author,
            labels=labels or {},
            metrics=metrics or {},
            derived_from=references(derived_from),
            keep_original=keep_original,
            idempotency_key=idempotency_key,
            allow_base_mismatch=allow_base_mismatch,
            allow_duplicate=allow_duplicate,
            dry_run=dry_run,
        )
        return commit_sources(
            self._home, list(adapters.items()), space=space, options=options, adapter_name=None
        )

    refit, basis, merge, retention, analyze, similar = (
        subspace.refit,
        subspace.basis,
        subspace.merge,
        subspace.retention,
        subspace.analyze,
        subspace.similar,
    )

    def checkout(
        self,
        ref: Ref,
        *,
        space: str | None = None,
        device: "str | torch.device" = "cpu",
        dtype: "torch.dtype | str | None" = None,
        exact: bool = False,
    ) -> "Adapter":
        """Rebuild a task version in memory, on a device.

        Args:
            ref: Such as cola, cola@v3, cola@prod, cola@2026-11-16.
            dtype: Floating dtype of the tensors; None keeps each tensor's own.
            exact: The adapter as handed in, bit for bit; needs `keep_original` or budget 0 at
                commit.

        Raises NotFound, InvalidInput, Refused, Integrity.
        """
        from share_registry.registry.checkout import checkout

        return checkout(
            self._home, reference(ref), space=space, device=device, dtype=dtype, exact=exact
        )

    def export(
        self,
        ref: Ref,
        root: FilePath,
        *,
        space: str | None = None,
        name: str | None = None,
        profile: str = "native",
        overwrite: bool = False,
    ) -> Export:
        """Write a task version as a plain PEFT directory `root/<task>-v<N>-<digest8>/`, atomically.

        The same content already there is success.

        Args:
            name: Name of the directory instead; "" writes into `root` itself.
            profile: "native": as committed. "portable": scale folded in, one rank, lora_alpha = r,
                the form every server reads alike.
            overwrite: Replace something else that is there.
        """
        from share_registry.registry.checkout import export

        return export(
            self._home,
            reference(ref),
            root,
            space=space,
            name=name,
            profile=profile,
            overwrite=overwrite,
        )

    def log(
        self,
        space: str | None = None,
        *,
        task: str | None = None,
        kind: str | None = None,
        author: str | None = None,
        since: "str | date | datetime | None" = None,
        until: "str | date | datetime | None" = None,
        limit: int | None = 50,
        before: int | Ref | None = None,
    ) -> Log:
        """Return commits, newest first: a page of at most `limit` (None.

        All), the next one `before` the last commit of this page. See also `every`.

        Args:
            space: One space; the session's where None, or all where there is none.
            task, kind, author, since, until: Only commits about this task, of this kind, by this
                author, between these dates or times.
        """
        from share_registry.registry.reading import log

        return log(
            self._home,
            space,
            task=task,
            kind=kind,
            author=author,
            since=since,
            until=until,
            limit=limit,
            before=before,
        )

    def show(self, ref: Ref, *, space: str | None = None) -> Commit:
        """Return the commit that a task version or `@cN` stands for, with its full report.

        Raises NotFound.
        """
        from share_registry.registry.reading import show

        return show(self._home, reference(ref), space=space)

    def resolve(self, ref: Ref, *, space: str | None = None) -> Resolved:
        """Return what a reference means now. Raises InvalidInput, NotFound."""
        from share_registry.registry.reading import resolve_reference

        return resolve_reference(self._home, reference(ref), space=space)

    def tasks(
        self,
        space: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        alias: str | None = None,
        name: str | None = None,
        at: "str | date | datetime | int | None" = None,
        limit: int | None = None,
        after: str | Task | None = None,
    ) -> list[Task]:
        """Return the live tasks by name at their newest versions, or as of `at`.

        A date, time, commit number or tag.

        Args:
            space: One space; the session's where None, or all where there is none.
            labels, alias, name: Only tasks whose newest version has these labels, that have this
                alias, whose name matches this pattern (`*`, `?`).
            limit: At most so many (None: all), the next page `after` the last task of this one. See
                also `every`.
        """
        from share_registry.registry.reading import tasks

        return tasks(
            self._home,
            space,
            labels=labels,
            alias=alias,
            name=name,
            at=at,
            limit=limit,
            after=after,
        )

    def lineage(self, ref: Ref, *, space: str | None = None) -> Lineage:
        """Return where a task version came from: earlier versions, declared parents, sources.

        Raises NotFound.
        """
        from share_registry.registry.reading import lineage

        return lineage(self._home, reference(ref), space=space)

    def diff(self, a: Ref, b: Ref, *, space: str | None = None) -> Diff:
        """Compare two task versions, or two states of a space.

        Metadata, and per task the relative change of dW. Raises NotFound, InvalidInput.
        """
        from share_registry.registry.diff import diff

        return diff(self._home, reference(a), reference(b), space=space)

    def set_alias(
        self,
        ref: Ref,
        alias: str,
        *,
        space: str | None = None,
        expected: int | None = None,
        reason: str = "",
    ) -> Commit:
        """Point an alias of a task to a version, for a `reason`.

        Every move is recorded, and where there is none, that to where it is, `.created`
        False.

        Raises Conflict where the alias is not at version `expected` (`ABSENT`: not set).
        """
        from share_registry.registry.changes import set_alias

        return set_alias(
            self._home, reference(ref), alias, space=space, expected=expected, reason=reason
        )

    def remove_alias(
        self,
        task: str,
        alias: str,
        *,
        space: str | None = None,
        expected: int | None = None,
        reason: str = "",
    ) -> Commit:
        """Remove an alias of a task; its history stays. Raises NotFound, Conflict."""
        from share_registry.registry.changes import remove_alias

        return remove_alias(self._home, task, alias, space=space, expected=expected, reason=reason)

    def aliases(self, space: str | None = None, *, task: str | None = None) -> list[Alias]:
        """Return the aliases of a space's tasks, or of one task."""
        from share_registry.registry.reading import aliases

        return aliases(self._home, space, task=task)

    def alias_history(
        self,
        task: str,
        alias: str,
        *,
        space: str | None = None,
        at: "str | date | datetime | int | None" = None,
    ) -> list[AliasMove]:
        """Return the moves of an alias, newest first; with `at` only the one in force then.

        Raises NotFound.
        """
        from share_registry.registry.reading import alias_history

        return alias_history(self._home, task, alias, space=space, at=at)

    def tag(self, name: str, ref: Ref, *, space: str | None = None, reason: str = "") -> Commit:
        """Name a commit of a space, for ever: `ref` is `@cN`, `@latest` or a task version.

        Raises Conflict where the tag names another commit.
        """
        from share_registry.registry.changes import set_tag

        return set_tag(self._home, name, reference(ref), space=space, reason=reason)

    def tags(self, space: str | None = None) -> list[Tag]:
        """Return the tags of a space, or of all."""
        from share_registry.registry.reading import tags

        return tags(self._home, space)

    def annotate(
        self,
        ref: Ref,
        *,
        space: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        remove: str | Iterable[str] = (),
        reason: str = "",
    ) -> Commit:
        """Set or remove labels and metrics of a task version. Raises NotFound, InvalidInput."""
        from share_registry.registry.changes import annotate

        return annotate(
            self._home,
            reference(ref),
            space=space,
            labels=labels or {},
            metrics=metrics or {},
            remove=list(remove),
            reason=reason,
        )

    def drop(self, task: str, *, space: str | None = None, reason: str = "") -> Commit:
        """Stop listing a task; its versions stay. Raises NotFound, Refused."""
        from share_registry.registry.changes import drop

        return drop(self._home, task, space=space, reason=reason)

    def restore(self, ref: Ref, *, space: str | None = None, reason: str = "") -> Commit:
        """Make an earlier version the newest one, and a dropped task live again.

        Where it is so, return the commit that made it. Raises NotFound.
        """
        from share_registry.registry.changes import restore

        return restore(self._home, reference(ref), space=space, reason=reason)

    def rename(self, task: str, new: str, *, space: str | None = None, reason: str = "") -> Commit:
        """Give a task a new name; the old one keeps leading to it.

        Raises Conflict where the name is or was another task's.
        """
        from share_registry.registry.changes import rename

        return rename(self._home, task, new, space=space, reason=reason)

    def verify(
        self,
        level: str = "data",
        *,
        raise_on_damage: bool = True,
        progress: "Progress | None" = None,
    ) -> VerifyReport:
        """Check the whole registry; raise Integrity for damage unless told otherwise.

        Args:
            level: "quick": chains and presence. "data": every byte hashed and parsed. "deep": every
                version rebuilt and compared.
            progress: Called with what is being done, how many are done and how many there are.
        """
        from share_registry.registry.verify import require_sound, verify

        report = verify(self._home, level, progress=progress)
        if raise_on_damage:
            require_sound(report)
        return report

    def rebuild(self, *, accept_loss: bool = False) -> int:
        """Empty the catalog and fill it from the store; return the number of commits.

        Refused where it would forget commits, unless told to accept that.
        """
        from share_registry.registry.reading import rebuild

        return rebuild(self._home, accept_loss=accept_loss)
