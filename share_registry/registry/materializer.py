"""Materializer: task versions made on a device from rows that stay resident there.

A call costs about its memory traffic. References are resolved at every call, so that an alias is
followed where it has moved; their meaning is remembered until a commit is made anywhere in the
registry.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from threading import RLock
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

import torch

from share_registry import kinds
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.lookups import Head
from share_registry.catalog.queries.name_claims import claims_of_reference
from share_registry.catalog.queries.resolution import versions_of
from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import copy_json
from share_registry.exchange.tensors import all_finite, check_no_overflow
from share_registry.materialize import models
from share_registry.materialize.bank import Bank, Holding
from share_registry.materialize.decoder import Reader
from share_registry.materialize.device import (
    Buffers,
    DeviceTarget,
    Recycled,
    check_buffers,
    device_of,
    dtype_of,
)
from share_registry.materialize.exact import ExactPass, exact_recipe_of
from share_registry.materialize.factors import Factors
from share_registry.materialize.fast import Pass, RepeatedPass
from share_registry.materialize.recipe import recipe_of
from share_registry.names import Digest, SpaceName
from share_registry.registry.arguments import Ref, reference, references
from share_registry.registry.checkout.checkout import (
    describe,
    is_narrowing,
    task_note,
    without_error,
)
from share_registry.registry.evidence import (
    check_config,
    require_given,
    require_recorded,
)
from share_registry.registry.log_entries import read_layout, read_note
from share_registry.registry.registry import Registry
from share_registry.registry.sync import unchanged
from share_registry.values.task_version import TaskVersion

# One reference or several
Refs = Ref | Iterable[Ref]
_REMEMBERED: Final = 1 << 16
_DESCRIBED: Final = 4096
# Few: a note speaks of every task of a commit.
_NOTES: Final = 64
_model: Final = kinds.of(torch.nn.Module, "a torch module", "Give the model itself.")
# Attribute of a model whose weights have an adapter merged.
_MERGED: Final = "_share_registry_merged"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPass:
    """Adapters that can be made again and again in the same memory: on a GPU by one graph launch.

    Attributes:
        adapters: By reference as it was given, each what the reference meant when the pass was
            prepared.
        run: Writes their tensors again, over whatever was written there since.
    """

    adapters: Mapping[str, Adapter]
    run: Callable[[], None]


class Materializer:
    """Make adapters from rows that are resident on a device.

    A context manager, safe for threads.

    Args:
        registry: An open registry or space; it must stay open.
        device: Where rows are kept and results are made.
        dtype: Floating element type of results; None for each tensor's own.
        exact: Compute in float64, by the rules of the format: the same bytes as
            `Registry.checkout`, on any device. Otherwise results are within the bound that
            docs/materializer.md states.
        memory_limit: Bound in bytes on what is resident; None for none. Results are not part of it.

    Raises:
        InvalidInputError: the device is not there, or an option makes no sense.
    """

    @kinds.takes(
        registry=kinds.of(Registry, "an open Registry", "Open it with Registry.open."),
        exact=kinds.flag,
        memory_limit=kinds.whole(1, "Give a number of bytes, or None for no limit."),
    )
    def __init__(
        self,
        registry: Registry,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | str | None = None,
        exact: bool = False,
        memory_limit: int | None = None,
    ) -> None:
        target_device = torch.empty(0, dtype=torch.float32, device=device_of(device)).device
        self._context = registry.context
        self._space = registry.scope
        self._target = DeviceTarget(target_device, dtype=dtype_of(dtype), exact=exact)
        self._bank: Bank[Any] = Bank(
            partial(Reader, self._context.store),
            exact_recipe_of if exact else recipe_of,
            self._target,
            limit_bytes=memory_limit,
        )
        self._lock = RLock()
        self._recycled = Recycled()
        self._scratch = Buffers(target_device)
        self._seats: WeakKeyDictionary[Any, models.Seat] = WeakKeyDictionary()
        # what references meant when the spaces had these heads: one value, for threads
        self._resolutions: tuple[Mapping[SpaceName, Head], dict[str, TaskVersion]] = ({}, {})
        self._layout = lru_cache(_DESCRIBED)(partial(read_layout, self._context.store))
        self._note = lru_cache(_NOTES)(partial(read_note, self._context.store))
        self._described = lru_cache(_DESCRIBED)(self._describe)
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Materializer(device='{self._target.device}', resident_bytes={self.resident_bytes})"

    @property
    def resident_bytes(self) -> int:
        """Bytes of rows, coefficients and kept tensors that are resident."""
        return self._bank.used_bytes

    @property
    def evictions(self) -> int:
        """How often something was dropped to stay within `memory_limit`."""
        return self._bank.evictions

    def close(self) -> None:
        """Drop what is resident; adapters returned before stay valid."""
        self._closed = True
        self._bank.clear()
        self._recycled.clear()

    def buffers(self) -> Buffers:
        """Return memory for `materialize` to write into as `out`, again and again."""
        return Buffers(self._target.device)

    @one_thread()
    def prefetch(self, refs: Refs) -> int:
        """Make task versions resident: from the first on, as many as fit together.

        Returns:
            How many of them are resident now.

        Raises:
            NotFoundError, InvalidInputError, RefusedError, IntegrityError: as `materialize`.
        """
        digests = list(dict.fromkeys(row.adapter_digest for row in self._versions(refs).values()))
        _, left = self._bank.hold(digests)
        return len(digests) - len(left)

    @one_thread()
    def materialize(self, refs: Refs, *, out: Buffers | None = None) -> dict[str, Adapter]:
        """Make one or many task versions in one pass over the rows they share.

        Args:
            refs: References such as cola, cola@v3, cola@prod.
            out: Memory to write into, in place of what an earlier call wrote there. Where None,
                memory that nobody else has: new, or of results that are gone.

        Returns:
            The adapters by reference as it was given. Their tensors are views of the memory
            written; references of one version share them.

        Raises:
            NotFoundError, InvalidInputError: a reference, or `out`.
            RefusedError: one of them alone does not fit into `memory_limit`, a value is more than
                `dtype` holds, or the materializer is closed.
            IntegrityError: stored bytes are not what was committed.
        """
        rows = self._versions(refs)
        buffers = (
            Buffers(self._target.device, None if self._target.is_cuda else self._recycled.take)
            if out is None
            else check_buffers(out, self._target.device)
        )
        buffers.begin()
        factors: dict[Digest, Factors] = {}
        left: Any = list(dict.fromkeys(row.adapter_digest for row in rows.values()))
        while left:
            holding, left = self._bank.hold(left)
            factors |= self._run_pass(holding, buffers).output.factors()
        return self._adapters(rows, factors)

    @one_thread()
    def prepare(self, refs: Refs) -> PreparedPass:
        """Make task versions in memory of their own, to be made again there at any time.

        Making them again looks nothing up in the catalog.

        Raises:
            NotFoundError, InvalidInputError, RefusedError, IntegrityError: as `materialize`.
        """
        rows = self._versions(refs)
        holding, left = self._bank.hold(
            list(dict.fromkeys(row.adapter_digest for row in rows.values()))
        )
        ensure(
            not left,
            RefusedError(
                f"{len(left)} of the adapters do not fit into memory_limit beside the others.",
                hint="Give fewer, or a larger limit.",
            ),
        )
        finished = self._run_pass(holding, self.buffers())
        return PreparedPass(
            adapters=self._adapters(rows, finished.output.factors()),
            run=RepeatedPass(finished.fill, self._target).run,
        )

    def state_dict(self, ref: Ref, *, out: Buffers | None = None) -> dict[str, torch.Tensor]:
        """Return a task version's tensors under their PEFT keys.

        `peft.set_peft_model_state_dict` takes them as they are.

        Raises:
            NotFoundError, InvalidInputError, RefusedError, IntegrityError: as `materialize`.
        """
        return self.materialize(ref, out=out)[reference(ref)].state_dict()

    @kinds.takes(model=_model, adapter_name=kinds.text)
    @one_thread()
    def swap(self, model: Any, ref: Ref, *, adapter_name: str | None = None) -> str:
        """Overwrite an adapter of a `peft.PeftModel` by a task version with the same modules.

        Args:
            model: The model; its parameters stay the same objects.
            ref: The task version.
            adapter_name: Which adapter; may be left out where there is one, or one is active.

        Returns:
            The adapter's name in the model.

        Raises:
            InvalidInputError: the adapters differ in modules, ranks or options; the model is as
                before.
            NotFoundError, RefusedError, IntegrityError: as `materialize`.
        """
        with self._lock:
            adapter = self.materialize(ref, out=self._scratch)[reference(ref)]
            seat = models.swap(
                model, adapter, adapter_name=adapter_name, seat=self._seats.get(model)
            )
            self._seats[model] = seat
            self._target.idle()
        return seat.name

    @kinds.takes(model=_model)
    def merge_into(self, model: Any, ref: Ref) -> None:
        """Add a task version's dW to the weights of a plain model, in place.

        The weights are kept for `unmerge`.

        Raises:
            RefusedError: it cannot be merged as dW alone, or the model holds one already.
            NotFoundError, InvalidInputError, IntegrityError: as `materialize`.
        """
        with self._lock:
            ensure(
                not getattr(model, _MERGED, False),
                RefusedError(
                    "the model has an adapter merged already.", hint="Call `unmerge(model)` first."
                ),
            )
            adapter = self.materialize(ref, out=self._scratch)[reference(ref)]
            # kept with the model, which may outlive this materializer or be copied
            setattr(model, _MERGED, models.merge(model, adapter))
            self._target.idle()

    @kinds.takes(model=_model)
    def unmerge(self, model: Any) -> None:
        """Put back, bit for bit, the weights that `merge_into` changed.

        It may have been another materializer's; what was written to the weights since is lost.

        Raises:
            InvalidInputError: nothing was merged.
        """
        with self._lock:
            originals = getattr(model, _MERGED, None)
            if originals is None:
                raise InvalidInputError(
                    "nothing was merged into this model.",
                    hint="Call `merge_into(model, ref)` first.",
                )
            models.unmerge(originals)
            delattr(model, _MERGED)

    def _run_pass(self, holding: Holding[Any], buffers: Buffers) -> Pass | ExactPass:
        pass_class = ExactPass if self._target.exact else Pass
        # what is made in inference mode could not be written again outside of it
        with torch.inference_mode(mode=False), torch.no_grad():
            finished = pass_class(holding, self._target, buffers)
            finished.fill()
        if self._target.dtype is not None:
            _check_range(finished)
        return finished

    def _adapters(
        self, rows: Mapping[str, TaskVersion], factors: Mapping[Digest, Factors]
    ) -> dict[str, Adapter]:
        return {
            ref: replace(
                adapter,
                tensors=factors[rows[ref].adapter_digest],
                config=copy_json(adapter.config),
                attachments=dict(adapter.attachments),
            )
            for ref, adapter in ((ref, self._described(row)) for ref, row in rows.items())
        }

    def _versions(self, refs: Refs) -> dict[str, TaskVersion]:
        """Return what references mean now.

        It takes no SQL statement where no commit was made since they were resolved last.
        """
        ensure(
            not self._closed, RefusedError("this materializer is closed.", hint="Make another one.")
        )
        texts = references(refs)
        last_heads, versions = self._resolutions
        if (
            not self._context.closed
            and versions.keys() >= set(texts)
            and unchanged(self._context.store, last_heads)
        ):
            return {text: versions[text] for text in texts}
        with self._context.reading() as session:
            heads = lookups.heads(session)
            if last_heads != heads or self._context.ends.unknown or len(versions) >= _REMEMBERED:
                versions = {}
            added: dict[str, TaskVersion] = {}
            missing = [text for text in dict.fromkeys(texts) if text not in versions]
            if missing:
                added = versions_of(session, missing, space=self._space)
                versions = versions | added
            claims = [
                claim
                for ref, row in added.items()
                for claim in claims_of_reference(session, ref, space=self._space, present=row.task)
            ]
        self._context.store.read_ahead(digest for row in added.values() for digest in row.objects)
        require_given(self._context, claims)
        require_recorded(self._context, added.values())
        self._resolutions = heads, versions
        return {text: versions[text] for text in texts}

    def _describe(self, row: TaskVersion) -> Adapter:
        layout = self._layout(row.layout_digest)
        note = task_note(self._note(row.note_digest), row)
        check_config(row, note)
        adapter = describe(self._context, row, note, layout)
        return without_error(adapter) if is_narrowing(layout, self._target.dtype) else adapter


def _check_range(finished: Pass | ExactPass) -> None:
    """Check results in element types of a far smaller range than the stored ones.

    These are float16 above all. Raises RefusedError, naming the tensor.
    """
    narrow = (
        tensor
        for stored, tensor in finished.output.written()
        if stored.is_floating_point and torch.finfo(tensor.dtype).max < torch.finfo(stored).max / 2
    )
    if all(map(all_finite, narrow)):
        return
    for factors in finished.output.factors().values():
        for key, tensor in factors.items():
            check_no_overflow(key, tensor)
