"""The facade: one method a verb, and no logic.

What writes, and what needs tensors, is imported in the method that needs it, so that reading the
log loads neither torch nor pydantic.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from share_registry.catalog.queries import aliases, log as log_pages
from share_registry.catalog.queries.as_of import At
from share_registry.kinds import FilePath
from share_registry.names import SpaceName
from share_registry.registry.arguments import (
    CommitOptions,
    Ref,
    RefitOptions,
    Said,
    guarded,
    ignore_progress,
    reference,
    references,
)
from share_registry.registry.context import Context, with_basis_size
from share_registry.registry.opening import open_context
from share_registry.times import or_ago
from share_registry.values.commits import Commit, Log
from share_registry.values.policy import Policy
from share_registry.values.references import Alias, AliasMove, Identity, ResolvedReference, Tag
from share_registry.values.sheet import Listing
from share_registry.values.tasks import Lineage, SpaceSummary, Task

if TYPE_CHECKING:
    from datetime import date, datetime, timedelta

    import torch

    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.admission import Check
    from share_registry.registry.arguments import Progress
    from share_registry.registry.basis.basis import Basis
    from share_registry.registry.commands.prepare import Prepared
    from share_registry.routing.routing_index import RoutingIndex
    from share_registry.store.protocol import Store
    from share_registry.values.analyses import Analysis, Retention, Similar
    from share_registry.values.audits import AuditReport, Checkpoint
    from share_registry.values.changes import Changes
    from share_registry.values.checks import Diff, Export, Quarantine, VerifyReport
    from share_registry.values.garbage import GarbageReport
    from share_registry.values.imports import ImportReport, ImportSource
    from share_registry.values.lints import Lint
    from share_registry.values.removals import ExpireReport, PurgeReport
    from share_registry.values.repairs import RepairReport
    from share_registry.values.report_page import ReportPage
    from share_registry.values.sync_reports import SyncReport
    from share_registry.values.transfers import TransferReport
    from share_registry.values.uploads import Upload


@guarded
class Registry:
    """A store of bytes and a catalog over it; opened by `Registry.open`, a context manager.

    Safe for threads, and after a fork with no other thread in a call. References that name no space
    are looked up in the one given to `open`, else in the only one, else in the only one that has a
    task of that name.
    """

    def __init__(self, context: Context, space: SpaceName | None = None) -> None:
        self._context = context
        self._space = space

    @classmethod
    def open(
        cls,
        location: FilePath | None = None,
        *,
        store: "FilePath | Store | None" = None,
        space: str | None = None,
        mode: str = "c",
        device: str | None = None,
        author: str | None = None,
        checks: "Mapping[str, Check] | None" = None,
    ) -> "Registry":
        """Open a registry.

        Args:
            location: A directory, a bucket (`s3://`, `gs://`, `az://`), `memory://`, or the
                SQLAlchemy URL of a catalog together with `store`. Default: $SHARE_REGISTRY_URI,
                else ./share-registry.
            store: Directory or bucket of the store, with a catalog URL, or an open `Store`; alone
                it has a catalog in memory. Default with a URL: $SHARE_REGISTRY_STORE.
            space: Space of calls and references that name none. Default: $SHARE_REGISTRY_SPACE,
                else the only one.
            mode: "r" never writes anything and works on read-only media, "w" writes, "c" creates
                what is missing.
            device: Where commits and refits are computed. Default: $SHARE_REGISTRY_DEVICE, else
                cpu. Errors are measured, and versions read, alike on all.
            author: Who records are by, where a call names nobody; "" for nobody. Default:
                $SHARE_REGISTRY_AUTHOR, else who started the CI run, git's user.name, the system's
                user.
            checks: What is run on every adapter before it is committed, by the name that policies
                know it by (`NAME` or `NAME@VERSION`): a command, to which a directory with the
                adapter's files is added and which exits with 0 where it passes, or a function of
                that directory, which raises where it does not and may return a summary. Default:
                $SHARE_REGISTRY_CHECKS, `NAME=COMMAND` a line.

        Raises:
            InvalidInputError, NotFoundError, RefusedError: an argument is not usable.
            FormatError, CatalogError: the store or the catalog is of another version.
        """
        from share_registry.outside.files import Outside

        return Registry(
            *open_context(
                location,
                store=store,
                space=space,
                mode=mode,
                outside=Outside(),
                device=device,
                author=author,
                checks=checks,
            )
        )

    @property
    def location(self) -> str:
        """The directory or catalog URL, without a password."""
        return self._context.location

    @property
    def context(self) -> Context:
        """What every verb works on; for modules of this package."""
        return self._context

    @property
    def scope(self) -> SpaceName | None:
        """The space of calls and references that name none; None for the only one there is."""
        return self._space

    def close(self) -> None:
        """Close the catalog's connections."""
        self._context.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        mode = "w" if self._context.writable else "r"
        return f"{type(self).__name__}({self.location!r}, space={self._space!r}, mode={mode!r})"

    def space(self, name: str) -> "Space":
        """Return a space: the same verbs, where references name no other. Raises NotFoundError."""
        with self._context.reading() as session:
            return Space(self._context, aliases.space_summary(session, name).name)

    def spaces(self) -> list[SpaceSummary]:
        """Return every space."""
        with self._context.reading() as session:
            return Listing(aliases.spaces(session))

    def create_space(
        self,
        name: str,
        *,
        base_model: str | None = None,
        base_revision: str | None = None,
        base_labels: Sequence[str] = (),
        policy: Policy | None = None,
        author: str | None = None,
        exist_ok: bool = False,
    ) -> "Space":
        """Create a space for the adapters of one base model.

        Args:
            name: 1 to 64 of a-z 0-9 . _ -.
            base_model: Label of the base model, the name where None.
            base_revision: Its commit hash.
            base_labels: Other labels the same model goes by: mirrors, quantised copies, local
                paths.
            policy: Defaults of the space's commits.
            author: Who; the registry's default author where None.
            exist_ok: An existing space of the same base model is success, otherwise Conflict.
        """
        from share_registry.registry.commands.spaces import create_space

        return Space(
            self._context,
            create_space(
                self._context,
                name,
                base_model=base_model,
                base_revision=base_revision,
                base_labels=base_labels,
                policy=policy,
                author=author,
                exist_ok=exist_ok,
            ),
        )

    def set_policy(
        self, policy: Policy, *, space: str | None = None, author: str | None = None
    ) -> Commit:
        """Set the policy of a space for later commits.

        Where it has that policy already, return the commit that set it. Raises NotFoundError.
        """
        from share_registry.registry.commands.spaces import set_policy

        return set_policy(self._context, self._scope_of(space), policy, author=author)

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
        format: str | None = None,
        expected: int | None = None,
        idempotency_key: str | None = None,
        allow_base_mismatch: bool = False,
        allow_duplicate: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """Commit an adapter as the next version of a task.

        Args:
            adapter: A PEFT directory, a directory or file of another program,
                `hf://owner/repo[@revision]`, a live `peft.PeftModel` (needs `task`) or an `Adapter`
                (needs `task`).
            task: Task name, or `space/task`; derived from the name of the directory, file or
                repository where None.
            space: An existing space; where None the scope's, else the one of the adapter's base
                model, created on first use.
            budget: Largest pooled relative error of scaled dW, 0 to keep every bit; the space's
                policy where None.
            message: Why.
            author: Who; the registry's default author where None.
            labels: Names with texts. `git.sha`, `ci.run`, `mlflow.run_id` and `wandb.run` are added
                where the environment has them.
            metrics: Other names with numbers.
            derived_from: References of the task versions it was made from.
            keep_original: Keep the files as they are beside it; the space's policy where None.
            adapter_name: Which adapter of a live model, the active one where None; or of a file
                that holds several.
            format: What the files are (`peft`, `kohya`, `diffusers`, ...); their content tells
                where None.
            expected: The task's newest version must be this one; `ABSENT`: there must be none.
            idempotency_key: A retry with the same key never makes a second commit; Conflict where
                the key's commit holds other adapters.
            allow_base_mismatch: Accept an adapter whose config names an unknown base model.
            allow_duplicate: Make a version even if the adapter is the task's newest one, kept as
                well as asked. Otherwise that commit is returned, `.created` False, and what is said
                of it (labels, message, ...) is not recorded: use `annotate`.
            dry_run: Measure and report, write nothing.

        Raises:
            InvalidInputError, NotFoundError, RefusedError, BudgetExceededError, ConflictError,
                StoreError: nothing was committed.
            CommitStateUnknownError: the store failed in mid-publication; retry with the key.
        """
        from share_registry.registry.commands.commit import commit_sources

        return commit_sources(
            self._context,
            [(task, adapter)],
            self._scope_of(space),
            CommitOptions(
                budget=budget,
                message=message,
                author=author,
                labels=labels or {},
                metrics=metrics or {},
                derived_from=references(derived_from),
                keep_original=keep_original,
                adapter_name=adapter_name,
                format=format,
                expected=expected,
                idempotency_key=idempotency_key,
                allow_base_mismatch=allow_base_mismatch,
                allow_duplicate=allow_duplicate,
                dry_run=dry_run,
            ),
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
        format: str | None = None,
        idempotency_key: str | None = None,
        allow_base_mismatch: bool = False,
        allow_duplicate: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """Commit several adapters, by task name, as one commit: all or nothing.

        Tasks whose newest version is the adapter given get no new one; `.unchanged` names them.
        Arguments and errors as in `commit`.
        """
        from share_registry.registry.commands.commit import commit_sources

        return commit_sources(
            self._context,
            list(adapters.items()),
            self._scope_of(space),
            CommitOptions(
                budget=budget,
                message=message,
                author=author,
                labels=labels or {},
                metrics=metrics or {},
                derived_from=references(derived_from),
                keep_original=keep_original,
                format=format,
                idempotency_key=idempotency_key,
                allow_base_mismatch=allow_base_mismatch,
                allow_duplicate=allow_duplicate,
                dry_run=dry_run,
            ),
        )

    def prepare(
        self,
        adapter: "str | os.PathLike[str] | Adapter | Any",
        *,
        task: str | None = None,
        space: str | None = None,
        budget: float | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        derived_from: Ref | Sequence[Ref] = (),
        keep_original: bool | None = None,
        adapter_name: str | None = None,
        format: str | None = None,
        allow_base_mismatch: bool = False,
        at: At | None = None,
    ) -> "Prepared":
        """Do all of a commit but the commit: read, check and code an adapter, store its objects.

        Nothing is published: `publish` does that, in this process or in another one that was sent
        the value (it can be pickled). What is never published is removed by `gc`.

        Args:
            adapter, task, space, budget, labels, metrics, derived_from, keep_original,
                adapter_name, format, allow_base_mismatch: As in `commit`.
            at: The adapter is coded against what the space held after this commit (or at this
                time), so that any number of processes give the same result; now where None.

        Raises:
            InvalidInputError, NotFoundError, RefusedError, BudgetExceededError, StoreError: nothing
                was prepared.
        """
        from share_registry.registry.commands.prepare import prepare_source

        return prepare_source(
            self._context,
            adapter,
            task,
            self._scope_of(space),
            CommitOptions(
                budget=budget,
                labels=labels or {},
                metrics=metrics or {},
                derived_from=references(derived_from),
                keep_original=keep_original,
                adapter_name=adapter_name,
                format=format,
                allow_base_mismatch=allow_base_mismatch,
            ),
            at=at,
        )

    def publish(
        self,
        prepared: "Prepared | Sequence[Prepared]",
        *,
        message: str = "",
        author: str | None = None,
        expected: int | None = None,
        idempotency_key: str | None = None,
        allow_duplicate: bool = False,
    ) -> Commit:
        """Publish what `prepare` returned, one or many tasks of a space, as one commit.

        All that a commit checks is checked now. An adapter that lost an object it needs is coded
        again from where it was read. Tasks whose newest version is the adapter given get no new
        one; `.unchanged` names them.

        Args:
            prepared: What `prepare` returned.
            message, author, idempotency_key, allow_duplicate: As in `commit`.
            expected: As in `commit`, for a single task.

        Raises:
            ShareRegistryError: as `commit`.
        """
        from share_registry.registry.commands.prepare import check_prepared, publish_prepared

        return publish_prepared(
            self._context,
            check_prepared("prepared", prepared),
            CommitOptions(
                message=message,
                author=author,
                expected=expected,
                idempotency_key=idempotency_key,
                allow_duplicate=allow_duplicate,
            ),
        )

    def import_many(
        self,
        sources: "str | os.PathLike[str] | Iterable[ImportSource | Adapter | Any]" = (),
        *,
        from_file: str | os.PathLike[str] | None = None,
        space: str | None = None,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        derived_from: Ref | Sequence[Ref] = (),
        keep_original: bool | None = None,
        format: str | None = None,
        allow_base_mismatch: bool = False,
        workers: int | None = None,
        on_error: str = "skip",
        dry_run: bool = False,
        progress: "Progress | None" = None,
    ) -> "ImportReport":
        """Commit many adapters, of any number of base models, with several processes.

        Every adapter is read and checked first. Those whose task has a version of them already are
        left as they are, so an import that was killed goes on when it is run again. The result is
        the same for any number of workers.

        Args:
            sources: Adapters as in `commit`, `ImportSource`s that say more of each, or directories:
                every adapter below one is imported, of whichever program.
            from_file: A CSV file with a row for each adapter: a column `source` and any of `task`,
                `space`, `message`, `labels`, `metrics`, `source_time`, `derived_from`, `format`,
                `label.NAME` and `metric.NAME`. Paths begin at its own directory.
            space: An existing space for those that name none; where None the scope's, else the one
                of each adapter's base model, created on first use.
            budget, message, author, labels, metrics, derived_from, keep_original, format,
                allow_base_mismatch: As in `commit`, for all that do not say it themselves.
            workers: Processes that prepare adapters; as many as there are processors where None. A
                registry in memory is worked on by this process alone.
            on_error: "skip" reports what is refused and goes on; "stop" raises at the first one,
                and what was committed before stays.
            dry_run: Read and check everything, code a few, and say how many bytes and how long the
                import would take; write nothing.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            InvalidInputError, NotFoundError: there is nothing to import.
            StoreError, CatalogError: what all adapters need fails; run it again to go on.
        """
        from share_registry.registry.commands.import_request import ImportRequest
        from share_registry.registry.commands.import_start import import_sources

        return import_sources(
            self._context,
            sources,
            ImportRequest(
                options=CommitOptions(
                    budget=budget,
                    message=message,
                    author=author,
                    labels=labels or {},
                    metrics=metrics or {},
                    derived_from=references(derived_from),
                    keep_original=keep_original,
                    format=format,
                    allow_base_mismatch=allow_base_mismatch,
                ),
                space=self._scope_of(space),
                from_file=from_file,
                workers=workers,
                on_error=on_error,
                dry_run=dry_run,
            ),
            progress=progress,
        )

    def refit(
        self,
        *,
        max_rank: int | None = None,
        energy: float | None = None,
        weighting: str = "unit",
        budget: float | None = None,
        allow_loss: bool = False,
        force: bool = False,
        message: str = "",
        author: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Fit a basis to the live tasks of the space; later commits may refer to it.

        Stored tasks stay as they are unless told otherwise. The basis equals the SVD of all
        energy-weighted factors stacked; it is computed from the Grams of the rows in use and the
        tasks' coefficients, so that no adapter is formed.

        Args:
            max_rank: At most this many directions per module and side.
            energy: As few directions as capture this share of the energy, 0 to 1. Without either,
                as many as save coded bytes.
            weighting: "unit": every task counts alike. "energy": by the square of its norm.
            budget: Re-express every task in the basis whose error stays within this, measured
                against the source or, where that is gone, by its bound.
            allow_loss: Re-express every task as coefficients over the basis alone, whatever error
                that makes; it is recorded.
            force: Make a basis whatever it saves, for instance to train in it; it is not judged.
            message: Why.
            author: Who; the registry's default author where None.
            dry_run: Measure and report, write nothing.

        Raises:
            InvalidInputError, NotFoundError: malformed arguments, no such space, no tasks.
            RefusedError: no direction saves bytes, so that there is no basis worth having; or the
                one asked for saves nothing on tasks to come, and none is re-expressed in it.
            ConflictError: a task got a new version meanwhile.
        """
        from share_registry.registry.commands.refit import refit

        return refit(
            self._context,
            self._space,
            RefitOptions(
                max_rank=max_rank,
                energy=energy,
                weighting=weighting,
                budget=budget,
                allow_loss=allow_loss,
                force=force,
                message=message,
                author=author,
                dry_run=dry_run,
            ),
        )

    def basis(self, *, at: At | None = None) -> "Basis":
        """Return the basis that commits are coded with, now or `at` a commit or moment.

        Orthonormal rows per module and side. Raises NotFoundError.
        """
        from share_registry.registry.basis.basis import basis

        return basis(self._context, self._space, at=at)

    def merge(
        self,
        parents: Mapping[str, float],
        *,
        task: str,
        method: str = "linear",
        density: float | None = None,
        seed: int | None = None,
        budget: float | None = None,
        message: str = "",
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        expected: int | None = None,
        idempotency_key: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Merge task versions into a version of a task; the parents stand in its lineage.

        Args:
            parents: References of task versions of one space, with their weights.
            task: The task it becomes a version of.
            method: "linear": the weighted sum of dW, exactly. "ties", "dare": in the basis that all
                parents share (KnOTS), with `density` and, for dare, `seed`.
            density: Share of the entries that are kept; ties and dare.
            seed: Of the random choice; dare.
            budget: Largest error of what is stored against the merged dW; the space's policy where
                None.
            message, author, labels, metrics, expected, idempotency_key, dry_run: As in `commit`.

        Raises:
            InvalidInputError, NotFoundError, RefusedError, BudgetExceededError, ConflictError:
                nothing was committed.
        """
        from share_registry.registry.commands.merge import merge, rule_of

        return merge(
            self._context,
            parents,
            task,
            self._space,
            rule_of(method, density, seed),
            CommitOptions(
                budget=budget,
                message=message,
                author=author,
                labels=labels or {},
                metrics=metrics or {},
                expected=expected,
                idempotency_key=idempotency_key,
                dry_run=dry_run,
            ),
        )

    def retention(self, *, metric: str | None = None) -> "Retention":
        """Return the forgetting matrix: the error of every task at every commit that changed one.

        Or a recorded `metric`. Raises NotFoundError.
        """
        from share_registry.registry.audit.retention import retention

        return retention(self._context, self._space, metric=metric)

    def analyze(self, *, budgets: Sequence[float] = (0.01, 0.05, 0.1, 0.3)) -> "Analysis":
        """Return what the live tasks share, what that saves at several budgets, and a verdict.

        See `share_registry.analyze`.
        """
        from share_registry.registry.analysis.analyze import analyze_space

        return analyze_space(self._context, self._space, budgets=budgets)

    def similar(
        self, adapter: "Ref | os.PathLike[str] | Adapter | Any", *, limit: int | None = 10
    ) -> "Similar":
        """Return the tasks nearest to an adapter by dW.

        The adapter is a PEFT directory, an `Adapter`, a live model, or a reference.

        Raises:
            InvalidInputError, NotFoundError: it leads nowhere.
        """
        from share_registry.registry.analysis.similar import similar

        return similar(self._context, adapter, space=self._space, limit=limit)

    def identify(
        self, adapter: "str | os.PathLike[str] | Adapter | Any", *, format: str | None = None
    ) -> "list[Identity]":
        """Return the versions that an adapter is, as committed or as exported, newest first.

        A portable export holds other tensors; its README.md names the version.

        Args:
            adapter: A PEFT directory, files of another program, an `Adapter` or a live model.
            format: What the files are; their content tells where None.

        Raises:
            InvalidInputError: nothing that can be read as an adapter.
            NotFoundError: no version is it.
        """
        from share_registry.registry.audit.identify import identify

        return Listing(identify(self._context, adapter, space=self._space, format=format))

    def checkout(
        self,
        ref: Ref,
        *,
        device: "str | torch.device" = "cpu",
        dtype: "torch.dtype | str | None" = None,
        exact: bool = False,
    ) -> "Adapter":
        """Rebuild a task version in memory, on a device.

        Args:
            ref: Such as cola, cola@v3, cola@prod, cola@2026-11-16.
            device: Where the tensors are made.
            dtype: Floating dtype of the tensors; None keeps each tensor's own.
            exact: The adapter as it was given, bit for bit; needs `keep_original` or budget 0 at
                commit.

        Raises:
            InvalidInputError, NotFoundError, RefusedError, IntegrityError: it cannot be rebuilt as
                asked.
        """
        from share_registry.registry.checkout.checkout import checkout

        return checkout(
            self._context,
            reference(ref),
            space=self._space,
            device=device,
            dtype=dtype,
            exact=exact,
        )

    def export(
        self,
        ref: Ref,
        root: FilePath,
        *,
        name: str | None = None,
        profile: str | None = None,
        target: str | None = None,
        base_config: FilePath | None = None,
        dtype: "torch.dtype | str | None" = None,
        overwrite: bool = False,
        sign: FilePath | None = None,
        record: bool = False,
        reason: str = "",
        author: str | None = None,
    ) -> "Export":
        """Write a task version as a plain PEFT directory, or as a target reads it, atomically.

        The same content already there is success.

        Args:
            ref: Such as cola@v3.
            root: Where `<task>-v<N>-<digest8>/` is made, or `<task>-v<N>-portable-<digest8>/`. For
                llama.cpp `<task>-v<N>-<digest8>.gguf`; a root that ends in .gguf is the file.
            name: Name of the directory or file instead; "" writes into `root` itself.
            profile: "native": as committed. "portable": scale folded in, one rank, lora_alpha = r,
                the form every server reads alike. None: native, or the first of both that the
                target reads rightly.
            target: The server that it is for, as in `lint`: what it refuses or misreads is refused
                before anything is written. "llama.cpp" makes one GGUF file; needs the extra [gguf].
                "diffusers" makes a directory with `pytorch_lora_weights.safetensors`.
            base_config: For llama.cpp, the base model's config.json, or the directory that has it;
                None for that of the Hub's cache on this machine.
            dtype: For llama.cpp, float32 or float16; None for float32.
            overwrite: Replace something else that is there.
            sign: Sign it with this private key (a PEM file), or as who this process runs with
                "sigstore"; the signature is `<directory>.sig` beside it, and `verify_export` checks
                it. Needs the extra [signing].
            record: Say in the log that it was exported: which version, its digest, this machine and
                the directory. The registry must be open for writing. Releases that do not know
                such records (feature "exports" of the format) refuse what is behind one.
            reason, author: Why and who, for the record.

        Raises:
            InvalidInputError, NotFoundError, RefusedError, IntegrityError: it cannot be exported as
                asked.
            StoreError, ConflictError, CommitStateUnknownError: it could not be recorded; the
                message says that it was exported.
        """
        from share_registry.registry.checkout.version_export import ExportOptions, ExportRequest
        from share_registry.registry.commands.record_export import export

        return export(
            self._context,
            ExportRequest(
                ref=reference(ref),
                root=root,
                space=self._space,
                options=ExportOptions(
                    profile=profile, target=target, base_config=base_config, dtype=dtype
                ),
                name=name,
                overwrite=overwrite,
                sign=sign,
            ),
            record=record,
            said=Said(reason=reason, author=author),
        )

    def upload(
        self,
        ref: Ref,
        location: str,
        *,
        profile: str = "native",
        base_model: str | None = None,
        private: bool = True,
        create: bool = True,
        message: str = "",
        expected: str | None = None,
        dry_run: bool = False,
        record: bool = False,
        reason: str = "",
        author: str | None = None,
    ) -> "Upload":
        """Upload a task version to the Hugging Face Hub, as the files that `export` writes.

        They become one commit on top of the one that the branch was at; whoever commits meanwhile
        wins, and nothing is uploaded. The same files already there are success. Files of earlier
        uploads that this version has not are removed; what somebody else put there stays, and is
        only replaced where `expected` is given. The Hub's digest of every file is compared before
        this returns. `push` copies a registry, not a version.

        Args:
            ref: Such as cola@v3.
            location: hf://owner/repo, with @branch and a folder where wanted.
            profile: "native" or "portable", as `export`.
            base_model: What config and card name as base model, in place of what they named: a
                model of the Hub, such as owner/name.
            private: A repository that is created is seen by its owner alone.
            create: Create the repository, and the branch, where they are not there.
            message: What the commit on the Hub says beside the version and the digest.
            expected: The commit hash that the branch must be at.
            dry_run: Only say what would be uploaded.
            record: Say in the log that it was uploaded, as `export`.
            reason, author: Why and who, for the record.

        Raises:
            InvalidInputError, NotFoundError, IntegrityError: as `export`, and the location.
            RefusedError: the profile cannot express the adapter; there is no token, or it has not
                the right; somebody else's files are in the way; the Hub refuses.
            ConflictError: the branch is not at `expected`, or moved meanwhile.
            StoreError: the Hub cannot be reached.
        """
        from share_registry.registry.checkout.version_export import ExportOptions
        from share_registry.registry.commands.upload_version import UploadRequest, upload

        return upload(
            self._context,
            UploadRequest(
                ref=reference(ref),
                location=location,
                space=self._space,
                options=ExportOptions(profile=profile, base_model=base_model),
                private=private,
                create=create,
                message=message,
                expected=expected,
                dry_run=dry_run,
            ),
            record=record,
            said=Said(reason=reason, author=author),
        )

    def sync(
        self,
        root: FilePath,
        *,
        alias: str = "prod",
        profile: str | None = None,
        target: str | None = None,
        base_model: str | None = None,
        base_config: FilePath | None = None,
        prune: bool = False,
        grace_days: float = 1.0,
        progress: "Progress | None" = None,
    ) -> "SyncReport":
        """Keep a directory of everything that is behind an alias, for servers to load from.

        Each version becomes `<space>--<task>--v<N>-<digest12>/`, a name that no other bytes ever
        have, and `index.json` lists those that are served. All of it is replaced in single steps,
        so that this may be run again and again, by several hosts at once. Directories are checked
        by their digests and put right. A version that cannot be exported is reported; the one that
        was served before it is served on.

        Args:
            root: The directory; of one alias alone.
            alias: Such as prod.
            profile, target: As `export`. What the target does not serve is reported as what cannot
                be exported.
            base_model: What `adapter_config.json` names as base model, in place of what it named:
                what the server calls it.
            base_config: As `export`; of all spaces.
            prune: Remove directories that have not been served for `grace_days`.
            grace_days: So long a directory stays that is not served any more, so that requests in
                flight finish. 0.04 is an hour.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            InvalidInputError: an argument is not usable.
            NotFoundError: no task has the alias, for which the directory is not kept so far.
            RefusedError: the directory is kept for another registry, alias or space.
            StoreError: the directory cannot be written.
        """
        from share_registry.registry.checkout.version_export import ExportOptions
        from share_registry.registry.delivery.alias_sync import SyncRequest, sync

        return sync(
            self._context,
            SyncRequest(
                root=root,
                alias=alias,
                options=ExportOptions(
                    profile=profile,
                    target=target,
                    base_model=base_model,
                    base_config=base_config,
                ),
                prune=prune,
                grace_days=grace_days,
            ),
            space=self._space,
            progress=progress or ignore_progress,
        )

    def routing_index(
        self,
        refs: Ref | Iterable[Ref] | None = None,
        *,
        alias: str | None = None,
        modules: str | None = None,
        max_rank: int | None = None,
    ) -> "RoutingIndex":
        """Return an index that says which task version answers an input best.

        Of the row spaces of dW as it is stored, in linear modules alone: what enters an embedding,
        a convolution or an expert has no tokens of its own. Saved, it is a file that needs no
        registry.

        Args:
            refs: Task versions of one space; None for the newest version of every live task.
            alias: Instead, the version behind this alias of every live task that has it.
            modules: A regular expression that the whole path of a module must match: ".*query".
            max_rank: At most so many rows of a task and module, those with the largest singular
                values; None for all.

        Raises:
            InvalidInputError: an argument makes no sense, no row is left, or the versions are of
                several spaces.
            NotFoundError: a reference leads nowhere, no task has the alias, or there is no task.
            RefusedError: the expression takes too much work, or no space is named.
            IntegrityError: stored bytes are not what was committed.
        """
        from share_registry.registry.delivery.routing_versions import RoutingRequest, routing_index

        return routing_index(
            self._context,
            RoutingRequest(refs=refs, alias=alias, modules=modules, max_rank=max_rank),
            space=self._space,
        )

    def lint(self, ref: Ref, *, target: str | None = None, profile: str = "native") -> "Lint":
        """Return what servers refuse, misread or need of an export of a version.

        By rules that were seen in runs of these releases, or read in their source; nothing is
        written, and no server is asked.

        Args:
            ref: A task version.
            target: One server: peft, vllm, sglang, lorax, llama.cpp, openvino, onnxruntime or
                diffusers; None for all that serve models of its kind.
            profile: Of the export: "native" or "portable".

        Raises:
            InvalidInputError, NotFoundError, IntegrityError: see `checkout`.
            RefusedError: the profile cannot express the adapter.
        """
        from share_registry.registry.checkout.serving_lint import lint_version

        return lint_version(
            self._context, reference(ref), space=self._space, target=target, profile=profile
        )

    def log(
        self,
        space: str | None = None,
        *,
        task: str | None = None,
        kind: str | None = None,
        author: str | None = None,
        labels: Mapping[str, str] | None = None,
        metric: str | None = None,
        since: "str | date | datetime | None" = None,
        until: "str | date | datetime | None" = None,
        limit: int | None = 50,
        before: int | Ref | None = None,
        graph: bool = False,
    ) -> Log:
        """Return commits, newest first, in pages. See also `iterate`.

        Args:
            space: One space; the scope's where None, or all where there is none.
            task: Only commits about this task, `[space/]task`.
            kind: Only commits of this kind.
            author: Only commits by this author.
            labels: Only commits that gave a version these labels; values may be patterns.
            metric: Only commits that recorded such a metric: "acc", or "acc>0.8".
            since: From this date (its beginning) or time, or from so long ago: "7d".
            until: Up to this date (its end) or time, or up to so long ago.
            limit: At most so many; None for all.
            before: The next page is the one before the last commit of this page.
            graph: Whether commits say what they build on, and are shown with lines between them.
        """
        now = self._context.outside.now()
        query = log_pages.LogQuery(
            space=self._scope_of(space),
            task=task,
            kind=kind,
            author=author,
            labels=labels or {},
            metric=metric,
            since=or_ago(since, now),
            until=or_ago(until, now),
            limit=limit,
            before=before,
            ancestry=graph,
        )
        with self._context.reading() as session:
            commits = log_pages.log(session, query)
        return Log(
            commits=tuple(with_basis_size(self._context, commit) for commit in commits), graph=graph
        )

    def show(self, ref: Ref) -> Commit:
        """Return the commit that a task version or `@cN` stands for, with its full report.

        Of a version it says what that has now: its aliases, labels and metrics. Raises
        NotFoundError.
        """
        with self._context.reading() as session:
            commit = log_pages.show(session, reference(ref), space=self._space)
        if not commit.reports and commit.basis is None:
            return commit
        from share_registry.registry.checkout.reports import with_modules

        return with_modules(self._context, commit, commit.about)

    def report(self, ref: Ref | None = None, *, progress: "Progress | None" = None) -> "ReportPage":
        """Return a report of a version, or of a space, as one HTML file to be handed on.

        Of a version: its modules, spectra, lineage and history. Of a space: its tasks, aliases,
        retention and log, and whether the registry is sound. The file asks for nothing and runs
        nothing. The same state gives the same bytes.

        Args:
            ref: A task version; None for the whole space.

        Raises:
            InvalidInputError, NotFoundError, RefusedError: it is no version, or no space is named
                and there are several.
            IntegrityError: stored bytes are not what was committed.
        """
        from share_registry.registry.review import report

        asked = None if ref is None else reference(ref)
        return report(self._context, asked, space=self._space)

    def resolve(self, ref: Ref) -> ResolvedReference:
        """Return what a reference means now. Raises InvalidInputError, NotFoundError."""
        from share_registry.registry.evidence import resolve_recorded

        return resolve_recorded(self._context, reference(ref), space=self._space)

    def tasks(
        self,
        space: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        alias: str | None = None,
        name: str | None = None,
        at: At | None = None,
        where: str | Sequence[str] = (),
        sort: str | None = None,
        all_versions: bool = False,
        limit: int | None = None,
        after: str | Task | None = None,
    ) -> list[Task]:
        """Return the live tasks by name, each at its newest version. See also `iterate`.

        Args:
            space: One space; the scope's where None, or all where there is none.
            labels: Only tasks whose newest version has these labels; values may be patterns.
            alias: Only tasks that have this alias.
            name: Only tasks whose name matches this pattern (`*`, `?`).
            at: As of a date, time, commit number or tag.
            where: Only those of which this holds: "acc>0.8", "acc>0.8,loss<1", of metrics or, where
                no metric is called so, of error, bytes, raw, version, commit, time.
            sort: By such a number instead of the name; "-acc" has the largest first.
            all_versions: Every version of each task, the newest first.
            limit: At most so many; None for all.
            after: The next page is the one after the last task of this page.
        """
        from share_registry.catalog.queries import task_pages

        query = task_pages.TaskQuery(
            space=self._scope_of(space),
            labels=labels or {},
            alias=alias,
            name=name,
            at=at,
            where=where,
            sort=sort,
            all_versions=all_versions,
            limit=limit,
            after=after,
        )
        with self._context.reading() as session:
            return Listing(task_pages.tasks(session, query))

    def lineage(self, ref: Ref) -> Lineage:
        """Return where a task version came from: earlier versions, declared parents, sources.

        Raises NotFoundError.
        """
        from share_registry.catalog.queries import lineage

        with self._context.reading() as session:
            return lineage.lineage(session, reference(ref), space=self._space)

    def diff(self, a: Ref, b: Ref) -> "Diff":
        """Compare two task versions, or two states of a space.

        Metadata, and per task the relative change of dW. Raises NotFoundError, InvalidInputError.
        """
        from share_registry.registry.audit.diff import diff

        return diff(self._context, reference(a), reference(b), space=self._space)

    def changes(
        self,
        since: "str | date | datetime",
        *,
        until: "str | date | datetime | None" = None,
        compare: bool = True,
        progress: "Progress | None" = None,
    ) -> "Changes":
        """Return what changed between two moments, one row a task.

        Of the space, or of all spaces where none was named.

        Args:
            since: A date (its beginning), a time, how long ago (`12h`, `7d`, `2w`), or of one space
                a commit or tag, which stays out: `@c40`.
            until: Up to this date (its end), time, commit or tag; None or `latest` for now.
            compare: Say by how much dW changed, for which both versions are decoded.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            InvalidInputError: a malformed moment, a commit without a space, or `until` is earlier.
            NotFoundError: there is no such commit or tag.
        """
        from share_registry.registry.audit.changed_tasks import changes

        return changes(
            self._context,
            since,
            until=until,
            space=self._space,
            compare=compare,
            progress=progress or ignore_progress,
        )

    def set_alias(
        self,
        ref: Ref,
        alias: str,
        *,
        expected: int | None = None,
        reason: str = "",
        author: str | None = None,
    ) -> Commit:
        """Point an alias of a task to a version; every move is recorded.

        Where it is there already, return the commit that put it there, `.created` False. Raises
        ConflictError where the alias is not at version `expected` (`ABSENT`: not set).
        """
        from share_registry.registry.commands.annotate import set_alias

        return set_alias(
            self._context,
            reference(ref),
            alias,
            space=self._space,
            expected=expected,
            said=Said(reason=reason, author=author),
        )

    def remove_alias(
        self,
        task: str,
        alias: str,
        *,
        expected: int | None = None,
        reason: str = "",
        author: str | None = None,
    ) -> Commit:
        """Remove an alias of a task; its history stays. Raises NotFoundError, ConflictError."""
        from share_registry.registry.commands.annotate import remove_alias

        return remove_alias(
            self._context,
            task,
            alias,
            space=self._space,
            expected=expected,
            said=Said(reason=reason, author=author),
        )

    def aliases(self, *, task: str | None = None) -> list[Alias]:
        """Return the aliases of all tasks, or of one."""
        with self._context.reading() as session:
            return Listing(aliases.aliases(session, space=self._space, task=task))

    def alias_history(self, task: str, alias: str, *, at: At | None = None) -> list[AliasMove]:
        """Return the moves of an alias, newest first; with `at` only the one in force then.

        Raises NotFoundError.
        """
        with self._context.reading() as session:
            moves = aliases.alias_history(session, task, alias, space=self._space, at=at)
        return Listing(moves)

    def tag(self, name: str, ref: Ref, *, reason: str = "", author: str | None = None) -> Commit:
        """Name a commit of a space, for ever: `ref` is `@cN`, `@latest` or a task version.

        Raises ConflictError where the tag names another commit.
        """
        from share_registry.registry.commands.annotate import set_tag

        said = Said(reason=reason, author=author)
        return set_tag(self._context, name, reference(ref), space=self._space, said=said)

    def tags(self) -> list[Tag]:
        """Return the tags of the scope's space, or of all."""
        with self._context.reading() as session:
            return Listing(aliases.tags(session, space=self._space))

    def annotate(
        self,
        ref: Ref,
        *,
        labels: Mapping[str, str] | None = None,
        metrics: Mapping[str, float] | None = None,
        remove: str | Iterable[str] = (),
        reason: str = "",
        author: str | None = None,
    ) -> Commit:
        """Set or remove labels and metrics of a task version.

        Raises NotFoundError, InvalidInputError.
        """
        from share_registry.registry.commands.annotate import annotate

        return annotate(
            self._context,
            reference(ref),
            space=self._space,
            labels=labels or {},
            metrics=metrics or {},
            remove=list(remove),
            said=Said(reason=reason, author=author),
        )

    def drop(self, task: str, *, reason: str = "", author: str | None = None) -> Commit:
        """Stop listing a task; its versions stay. Raises NotFoundError, RefusedError."""
        from share_registry.registry.commands.annotate import drop

        said = Said(reason=reason, author=author)
        return drop(self._context, task, space=self._space, said=said)

    def restore(self, ref: Ref, *, reason: str = "", author: str | None = None) -> Commit:
        """Make an earlier version the newest one, and a dropped task live again.

        Where it is so already, return the commit that made it. Raises NotFoundError.
        """
        from share_registry.registry.commands.annotate import restore

        said = Said(reason=reason, author=author)
        return restore(self._context, reference(ref), space=self._space, said=said)

    def rename(self, task: str, new: str, *, reason: str = "", author: str | None = None) -> Commit:
        """Give a task a new name; the old one keeps leading to it.

        Raises ConflictError where the name is or was another task's.
        """
        from share_registry.registry.commands.annotate import rename

        said = Said(reason=reason, author=author)
        return rename(self._context, task, new, space=self._space, said=said)

    def verify(
        self,
        level: str = "data",
        *,
        shard: str | None = None,
        subset: str | None = None,
        turn: int | None = None,
        raise_on_damage: bool = True,
        progress: "Progress | None" = None,
    ) -> "VerifyReport":
        """Check the whole registry or a share of it; raise an error for what is wrong.

        IntegrityError for damage, FormatError for records of a later release, RefusedError for
        versions that are too large to be decoded.

        Args:
            level: "quick": chains and presence. "data": every byte hashed and parsed. "deep": every
                version rebuilt and compared.
            shard: "3/8" for the third of eight shares, which eight workers check side by side:
                together they check, and find, what a call without it does, each thing once.
            subset: "5%" for at least so much: one of 20 shards, another one every day (UTC), so
                that 20 days check everything. The report says which.
            turn: With a subset: a number that goes up by one from call to call, in place of the
                day's.
            raise_on_damage: Whether what is wrong is an error.
            progress: Called with what is being done, how many are done and how many there are.
        """
        from share_registry.registry.audit.verify import require_sound, verify

        report = verify(
            self._context,
            level,
            shard=shard,
            subset=subset,
            turn=turn,
            progress=progress or ignore_progress,
        )
        if raise_on_damage:
            require_sound(report)
        return report

    def checkpoint(
        self,
        space: str | None = None,
        *,
        sign: FilePath | None = None,
        expires: "str | timedelta | None" = None,
    ) -> "Checkpoint":
        """Return the last commit of every space, or of one, as lines to be kept elsewhere.

        What `audit` is given later, to see that nothing before it was changed or removed. Its
        `save` writes it into a file, with the signature beside it.

        Args:
            space: One space; the scope's where None, or all where there is none.
            sign: Sign it with this private key (a PEM file), or as who this process runs with
                "sigstore". Needs the extra [signing].
            expires: After this time, such as "30d", it is refused: so a later one must be given.

        Raises:
            RefusedError: model-signing is not installed.
            InvalidInputError, NotFoundError: the key, or the time, is none.
        """
        from share_registry.registry.audit.trail import checkpoint

        return checkpoint(self._context, self._scope_of(space), sign=sign, expires=expires)

    def audit(
        self,
        space: str | None = None,
        *,
        since: "Checkpoint | str | date | datetime | None" = None,
        until: "str | date | datetime | None" = None,
        actor: str | None = None,
        action: str | None = None,
        key: FilePath | None = None,
        identity: str | None = None,
        issuer: str | None = None,
    ) -> "AuditReport":
        """Return what was done, oldest first, as the records say; the catalog is not believed.

        Every record and note is read, which of 20,000 commits takes half a minute.

        Args:
            space: One space; the scope's where None, or all where there is none.
            since: Only what came behind this checkpoint, which must be on the way; or from this
                date (its beginning) or time.
            until: Up to this date (its end) or time.
            actor: Only commits by this author, which is what the author said.
            action: Only commits of this kind: absorb, alias, drop, ...
            key: The checkpoint must be signed, with the private key of this public one (PEM).
            identity: Or with Sigstore, as this mail address or workflow,
            issuer: for which this OpenID Connect issuer vouches.

        Raises:
            IntegrityError: records are damaged or missing, or the checkpoint is not on the way:
                history was rewritten; or it is not what was signed.
            InvalidInputError: the checkpoint is of another registry; the key is none.
            RefusedError: the checkpoint has expired, or is not signed and must be.
        """
        from share_registry.exchange.signatures import Signatory
        from share_registry.registry.audit.trail import AuditQuery, audit

        query = AuditQuery(
            space=self._scope_of(space),
            since=since,
            until=until,
            actor=actor,
            action=action,
            signatory=Signatory.of(key, identity, issuer),
        )
        return audit(self._context, query)

    def gc(
        self,
        *,
        grace_days: float = 7.0,
        dry_run: bool = True,
        progress: "Progress | None" = None,
    ) -> "GarbageReport":
        """Remove the objects that no record needs; as long as `dry_run`, only say which.

        They are what writers left that died or lost a race, and what was prepared and never
        published. What was put within the days of grace stays: somebody may be about to publish it.
        Writers of the store that do not use this catalog must publish within them.

        Args:
            grace_days: Days since an object was last put, by the clock of the store.
            dry_run: Whether nothing is removed.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            RefusedError: something that records need is damaged or missing, or the store removes
                nothing.
            FormatError: records, or the store, are of a later release.
        """
        from share_registry.registry.maintenance.gc import collect_garbage

        return collect_garbage(
            self._context,
            grace_days=grace_days,
            dry_run=dry_run,
            progress=progress or ignore_progress,
        )

    def expire(
        self,
        refs: Ref | Iterable[Ref] = (),
        *,
        keep_last: int = 1,
        keep_days: float = 0.0,
        keep_tagged: bool = True,
        dry_run: bool = True,
        reason: str = "",
        author: str | None = None,
        progress: "Progress | None" = None,
    ) -> "ExpireReport":
        """Remove versions that are not needed any more; as long as `dry_run`, only say which.

        They cannot be read any more, and `gc` removes what nothing else needs. Their records stay,
        with labels, metrics and messages, so that the log goes on saying what was there. What stays
        in any case: the newest version of a live task, versions that an alias or a tag stands for,
        and those that others that stay are built upon, as expiring these would free nothing.

        Args:
            refs: Tasks, all of whose versions are looked at, and versions, which go whatever the
                rule says; none: every task.
            keep_last: Keep so many versions of each task, the newest.
            keep_days: Keep what was committed within so many days.
            keep_tagged: Keep what was the newest version of its task at a tag.
            dry_run: Whether nothing is removed.
            reason: Why, for the record.
            author: Who, if not the default author.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            RefusedError: a version that is named must stay; something that records need is damaged
                or missing.
            NotFoundError: a reference names nothing, or what was removed before.
            ConflictError: others changed one of the versions meanwhile.
        """
        from share_registry.registry.maintenance.expire import KeepRule, expire

        return expire(
            self._context,
            references(refs),
            KeepRule(last=keep_last, days=keep_days, tagged=keep_tagged),
            space=self._space,
            dry_run=dry_run,
            said=Said(reason=reason, author=author),
            progress=progress or ignore_progress,
        )

    def purge(
        self,
        task: str,
        *,
        dry_run: bool = True,
        reason: str = "",
        author: str | None = None,
        progress: "Progress | None" = None,
    ) -> "PurgeReport":
        """Remove all that was kept of a task, for good; as long as `dry_run`, only say what.

        Its tensors, configs, attachments, originals, labels, metrics, and the messages of commits
        of it alone go at once, from the store and the catalog. Versions of other tasks that were
        built upon it are stored anew, bit for bit, so that what they decode to never changes. What
        stays is in the records, which are chained: the names of the task, its digests, errors and
        sizes, and that it was purged. Copies of the store are the caller's to purge.

        Args:
            task: The task, `[space/]task`.
            dry_run: Whether nothing is removed.
            reason: Why, for the record.
            author: Who, if not the default author.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            NotFoundError: there is no such task.
            RefusedError, IntegrityError: something that records need is damaged or missing; nothing
                was removed.
            ConflictError: others went on committing all the while.
        """
        from share_registry.registry.maintenance.purge import purge

        return purge(
            self._context,
            task,
            space=self._space,
            dry_run=dry_run,
            said=Said(reason=reason, author=author),
            progress=progress or ignore_progress,
        )

    def rebuild(self, *, accept_loss: bool | str = False) -> int:
        """Empty the catalog and fill it from the store; return the number of commits.

        RefusedError where it would forget commits, unless told to accept that.

        Args:
            accept_loss: Forget commits that the catalog knows and the store has lost. As
                "space/@c6": of that space alone, and where its log is damaged behind c6, give the
                records up from there on. They are moved to `quarantine` in the store, each named in
                a warning, and the space can be written again. "space/@c0" gives up all.
        """
        from share_registry.registry.commands.quarantine import rebuild

        return rebuild(self._context, accept_loss, space=self._space)

    def repair(
        self,
        from_: "FilePath | Store | None" = None,
        *,
        dry_run: bool = False,
        progress: "Progress | None" = None,
    ) -> "RepairReport":
        """Bring back from a copy of the store what `verify` finds damaged or missing.

        Layouts and configs that several versions share are in the store twice: the second one is
        put in their place without any copy. Other objects come from any store that has them.
        Records come from one of the same registry, where its log agrees with what is sound here;
        of logs that have diverged nothing is touched. What is damaged is moved to `quarantine`,
        records that are only newer in the copy stay there.

        Args:
            from_: The copy: the directory of its store, or an open store. It is only read. None:
                what the store itself has twice.
            dry_run: Write nothing and say what would be brought back.
            progress: Called with what is being done, how many are done and how many there are.

        Raises:
            NotFoundError: there is no store at that place.
        """
        from share_registry.registry.maintenance.repair import repair

        progress = progress or ignore_progress
        return repair(self._context, from_, dry_run=dry_run, progress=progress)

    def push(
        self,
        to: "FilePath | Store",
        *,
        dry_run: bool = False,
        progress: "Progress | None" = None,
    ) -> "TransferReport":
        """Copy to another store of this registry the records that it lacks, and what they need.

        A log is only ever gone on with: where somebody committed there what is not here,
        nothing of that space is touched, and the report names both heads. What is there already
        does not travel again, so a copy that was interrupted is run again. Every object is checked
        on the way and is there before the record that needs it.

        Args:
            to: A directory, a bucket, `hf://owner/repo[@branch][/folder]` or an open `Store`, which
                `clone` made once.
            dry_run: Write nothing and say what would be copied.
            progress: Called with what is being done, how many are done and how many there are.

        Returns:
            What was copied of every space. Where `ok` is False, `refused` of a space says why.

        Raises:
            NotFoundError: there is no registry at that place.
            RefusedError: it is another registry, or open for reading only; no right to write there.
            ConflictError: others commit to the repository of the Hub all the time.
        """
        from share_registry.registry.transfer.copies import push

        progress = progress or ignore_progress
        return push(self._context, to, dry_run=dry_run, progress=progress)

    def pull(
        self,
        from_: "FilePath | Store",
        *,
        dry_run: bool = False,
        progress: "Progress | None" = None,
    ) -> "TransferReport":
        """Copy from another store of this registry the records that it lacks here; see `push`.

        Args:
            from_: A directory, a bucket, `hf://owner/repo[@revision][/folder]` or an open `Store`,
                which is only read.
            dry_run: Write nothing and say what would be copied.
            progress: Called with what is being done, how many are done and how many there are.

        Returns:
            What was copied of every space. Where `ok` is False, `refused` of a space says why.

        Raises:
            NotFoundError: there is no registry at that place.
            RefusedError: it is another registry.
            ConflictError: what it needs was removed here meanwhile; run it again.
        """
        from share_registry.registry.transfer.copies import pull

        progress = progress or ignore_progress
        return pull(self._context, from_, dry_run=dry_run, progress=progress)

    def quarantine(self, digests: str | Iterable[str], *, force: bool = False) -> "Quarantine":
        """Move damaged objects out of the store, into its directory `quarantine`.

        A commit or a copy can then put sound ones in their place. Nothing is deleted.

        Args:
            digests: The objects, by their digests, as `verify` names them: whole, or the first 8
                digits or more.
            force: Move also what is sound: versions that need it cannot be read then.

        Raises:
            InvalidInputError: it is the beginning of several, which are named.
            NotFoundError: there is no such object.
            RefusedError: one is sound; nothing was moved.
        """
        from share_registry.registry.commands.quarantine import set_aside_objects

        return set_aside_objects(self._context, list(digests), force=force)

    def _scope_of(self, space: str | None) -> str | None:
        return space if space is not None else self._space


class Space(Registry):
    """A registry whose calls and references are of one space, unless they name another.

    It is a view: closing it leaves the registry that it is of open.
    """

    def close(self) -> None:
        """Do nothing."""

    @property
    def name(self) -> SpaceName:
        """The space's name."""
        return SpaceName(str(self._space))

    @property
    def summary(self) -> SpaceSummary:
        """Base model, policy and counts, as of now. Raises NotFoundError."""
        with self._context.reading() as session:
            return aliases.space_summary(session, str(self._space))
