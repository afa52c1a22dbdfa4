"""Checks of the objects and versions of a shard.

Objects that records and notes name are cut by their digest: who reads the logs knows them all.
Some are named by adapter objects alone (large tensors kept bit for bit; what a lost record named).
Such an object goes with the oldest adapter object that names it. Only a shard that comes upon one
reads what the adapter objects of the others refer to, and so does one that finds an object wrong:
what builds on it may be anybody's.
"""

from collections.abc import Iterable, Iterator

from safetensors import SafetensorError, deserialize

from share_registry.errors import ShareRegistryError
from share_registry.format.canonical import sha256
from share_registry.format.layout import Layout
from share_registry.names import Digest
from share_registry.registry.arguments import Progress
from share_registry.registry.audit.walk import Fault, Walk, outcome_of
from share_registry.registry.ledger import KeptVersion
from share_registry.registry.object_uses import Uses, uses_of
from share_registry.store.protocol import Store


def check_objects(walk: Walk, progress: Progress) -> None:
    """Check the objects of the shard and add what is wrong with them."""
    walk.own = set(filter(walk.shard.has, walk.refs))
    _check_each(walk, walk.own, progress)
    if walk.level != "quick" and (walk.own & walk.faults.keys() or _unlisted(walk)):
        for adapter in walk.adapters.keys() - walk.own:
            walk.uses.update(_uses_elsewhere(walk.store, adapter))
        unlisted = {
            digest for digest, adapter in _unlisted(walk).items() if walk.shard.has(adapter)
        }
        walk.own |= unlisted
        _check_each(walk, unlisted, progress)
    walk.size_bytes += sum(walk.sizes.get(digest, 0) for digest in walk.own)
    walk.tell_faults()


def own_versions(walk: Walk) -> dict[str, KeptVersion]:
    """Return the versions of the shard."""
    return {ref: each for ref, each in walk.versions.items() if walk.shard.has(each.adapter)}


def check_versions(walk: Walk, progress: Progress) -> None:
    """Rebuild each version of the shard and compare its tensors with the commit (spec DEC-12)."""
    from share_registry.algebra.threads import one_thread
    from share_registry.exchange.export_files import tensor_file
    from share_registry.materialize.decoder import Reader

    # not the registry's own reader: what that one has decoded before would not be read again
    reader = Reader(walk.store)
    versions = sorted(own_versions(walk).items())
    for done, (ref, version) in enumerate(versions, start=1):
        progress("versions", done, len(versions))
        task, adapter = version.entry, version.adapter
        try:
            layout = reader.open(adapter).layout
            with one_thread():
                content = tensor_file(layout, reader.tensors(adapter))
        except ShareRegistryError as error:
            walk.add("DEC-12", ref, error.message, [ref], outcome=outcome_of(error))
            continue
        if _keys_read_elsewhere(content) != sorted(spec.key for spec in layout.tensors):
            walk.add(
                "DEC-11",
                ref,
                "the safetensors library does not read the rebuilt file as it was written.",
                [ref],
            )
        if reader.open(adapter).stored.layout != task.layout:
            walk.add(
                "REC-08", ref, "the commit and its adapter object name different layouts.", [ref]
            )
        rebuilt = sha256(content)
        if rebuilt != task.tensors:
            walk.add(
                "DEC-12",
                ref,
                f"rebuilt tensors have digest {rebuilt[:8]}, the commit says {task.tensors[:8]}.",
                [ref],
            )
        if task.budget is not None and float(task.error) > float(task.budget):
            walk.add(
                "REC-09",
                ref,
                f"recorded error {task.error} is above the budget {task.budget}.",
                [ref],
            )


def _check_each(walk: Walk, digests: Iterable[Digest], progress: Progress) -> None:
    pending = sorted(digests)
    for done, digest in enumerate(pending, start=1):
        progress("objects", done, len(pending))
        if digest not in walk.sizes:
            _check_object(walk, digest)


def _check_object(walk: Walk, digest: Digest) -> None:
    from share_registry.format import adapter_object, basis_object

    if walk.level == "quick":
        if not walk.store.has(digest):
            walk.faults[digest] = Fault()
        return
    content = walk.read(digest)
    if content is None:
        return
    try:
        if digest in walk.bases:
            basis_object.decode(content)
        if digest in walk.adapters:
            walk.uses.update(_uses(digest, content))
            layout = walk.store.get_or_spare(adapter_object.header(content).layout)
            adapter_object.decode(
                content,
                Layout.from_bytes(layout),
                size_of=lambda source: walk.store.size(source) or 0,
            )
    except ShareRegistryError as error:
        walk.faults[digest] = Fault(code="OBJ-03", error=error)


def _uses(digest: Digest, content: bytes) -> dict[Digest, Uses]:
    """Return what an object refers to, by itself; nothing of a basis. Raises IntegrityError."""
    uses = uses_of(content)
    return {} if uses is None else {digest: uses}


def _uses_elsewhere(store: Store, adapter: Digest) -> dict[Digest, Uses]:
    """Return what an adapter object refers to; what is wrong with it is another shard's to say."""
    try:
        return _uses(adapter, store.get(adapter))
    except ShareRegistryError:
        return {}


def _unlisted(walk: Walk) -> dict[Digest, Digest]:
    """Return the objects that adapter objects alone name, each with the first of those.

    The first by time: a commit made meanwhile gives no object to another shard. Among them are
    adapter objects of versions that were removed, as far as others are built upon them, and what
    these need in turn.
    """
    unlisted: dict[Digest, Digest] = {}
    followed: set[tuple[Digest, bool]] = set()
    named = walk.uses.keys() & walk.adapters.keys()
    for adapter in sorted(named, key=lambda digest: (walk.adapters[digest], digest)):
        pending = [*_needs(walk.uses[adapter])]
        for digest, is_decoded in pending:
            if digest in walk.refs or (digest, is_decoded) in followed:
                continue
            followed.add((digest, is_decoded))
            unlisted.setdefault(digest, adapter)
            if digest not in walk.uses:
                walk.uses.update(_uses_elsewhere(walk.store, digest))
            if digest in walk.uses:
                needs = _needs(walk.uses[digest])
                pending += [*needs] if is_decoded else [(walk.uses[digest].layout, False)]
    return unlisted


def _needs(uses: Uses) -> Iterator[tuple[Digest, bool]]:
    """Yield what decoding an adapter object needs, each with whether that is decoded too."""
    yield from ((digest, digest == uses.previous) for digest in uses)


def _keys_read_elsewhere(content: bytes) -> list[str] | None:
    """Return the keys that the safetensors library, another parser than ours, finds in a file.

    None where it refuses.
    """
    try:
        return sorted(key for key, _ in deserialize(content))  # type: ignore[no-untyped-call]
    except SafetensorError:
        return None
