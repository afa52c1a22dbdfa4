"""Directories by the names that clients of a server ask for.

A name is `[space/]task@selector`, or the immutable name of a directory that `sync` makes. Nothing
else is looked up, and no text of a client becomes a path.
"""

import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Final

from share_registry.algebra.threads import one_thread
from share_registry.errors import (
    IntegrityError,
    NotFoundError,
    RefusedError,
    ShareRegistryError,
)
from share_registry.exchange.export_form import PROFILES
from share_registry.format.notes import TaskNote
from share_registry.kinds import FilePath
from share_registry.names import is_name, parse_reference
from share_registry.outside.files import Outside
from share_registry.registry.checkout.checkout import (
    base_label,
    version_and_note,
)
from share_registry.registry.checkout.version_export import (
    ExportOptions,
    RebuiltFiles,
    files_of_adapter,
    rebuild_for,
)
from share_registry.registry.context import Context
from share_registry.registry.delivery.served_directory import served_name
from share_registry.registry.delivery.served_index import is_served_name
from share_registry.registry.opening import open_context
from share_registry.serving.adapter_cache import AdapterCache
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
_MOST_REMEMBERED: Final = 1 << 16
# How a directory is made: the commit, task and number of the version, and in which form
_Recipe = tuple[str, str, int, ExportOptions]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlaces:
    """Where a server's adapters come from, and how they are made.

    Attributes:
        registry: Place of the registry; None for the library's default.
        store: Place of its store, with a catalog's URL.
        options: In which form; a reference to what its target refuses or misreads is refused.
        relabel: Whether their configs name the server's model as base model.
        space: Of references that name none; None for the library's default.
    """

    registry: FilePath | None
    store: FilePath | None
    options: ExportOptions
    relabel: bool
    space: str | None = None


class ServedAdapters:
    """The adapters of a registry as directories of a cache; safe for threads.

    The registry is opened when it is first needed, and again where it could not be.
    """

    def __init__(self, places: ServingPlaces, cache: AdapterCache, outside: Outside) -> None:
        self._places = places
        self._cache = cache
        self._outside = outside
        self._lock = Lock()
        self._opened: tuple[Context, str | None] | None = None
        # names by what they were made from; an alias is looked up every time
        self._names: dict[_Recipe, str] = {}

    def directory(self, name: str, base_model: str | None) -> Path | None:
        """Return the directory that a name stands for now; None for what is no such name.

        It is whole, has the bytes that its own name says, and stays as long as the cache holds it.

        Args:
            name: What a client asked for.
            base_model: What the server calls its model; None where it has no name for it.

        Raises:
            NotFoundError: there is no such version.
            ShareRegistryError: it cannot be exported or written.
        """
        if is_served_name(name):
            return self._cache.find(name) or self._by_served_name(name, base_model)
        if "@" not in name:
            return None
        try:
            asked = parse_reference(name)
        except ShareRegistryError:
            return None
        return None if asked.task is None else self._by_reference(name, base_model)

    def name_of(self, ref: str, base_model: str | None) -> tuple[TaskVersion, str]:
        """Return the version that a reference stands for now, and its immutable name.

        Where the name is not known yet, its directory is made. Raises as `directory`.
        """
        row, note = self._version(ref)
        options = self._asked(base_model)
        recipe = (row.commit_id, row.task, row.version, options)
        remembered = self._names.get(recipe)
        if remembered:
            return row, remembered
        try:
            rebuilt = self._rebuild(row, note, options)
        except NotFoundError as error:
            raise _lacks_base(row, error) from error
        name = self._remember(recipe, served_name(row, rebuilt.digest))
        if self._cache.find(name) is None:
            self._cache.put(name, rebuilt)
        return row, name

    def registry(self) -> tuple[Context, str | None]:
        """Return the open registry and the space that it is asked about; None for all.

        Raises ShareRegistryError where it cannot be opened.
        """
        with self._lock:
            if self._opened is None:
                self._opened = open_context(
                    self._places.registry,
                    store=self._places.store,
                    space=self._places.space,
                    mode="r",
                    outside=self._outside,
                )
            return self._opened

    def close(self) -> None:
        """Close the registry, where it is open."""
        with self._lock:
            if self._opened is not None:
                self._opened[0].close()

    def _by_reference(self, ref: str, base_model: str | None) -> Path:
        _, name = self.name_of(ref, base_model)
        return self._cache.find(name) or self._by_served_name(name, base_model)

    def _by_served_name(self, name: str, base_model: str | None) -> Path:
        """Return the directory of an immutable name that is not in the cache.

        The name does not tell how its files were made, so each way is tried, ours first, and
        remembered.
        """
        lacking: RefusedError | None = None
        for ref in _refs_of(name):
            with suppress(NotFoundError):
                row, note = self._version(ref)
                for options in self._ways(base_model):
                    recipe = (row.commit_id, row.task, row.version, options)
                    if self._names.get(recipe, name) != name:
                        continue
                    try:
                        rebuilt = self._rebuild(row, note, options)
                    except NotFoundError as error:
                        # not remembered: it may be put there
                        lacking = _lacks_base(row, error)
                        continue
                    except RefusedError:
                        # the form cannot express it, or its target refuses it
                        self._remember(recipe, "")
                        continue
                    if self._remember(recipe, served_name(row, rebuilt.digest)) == name:
                        return self._cache.put(name, rebuilt)
        raise lacking or NotFoundError(
            f"no version is exported as {name}.",
            hint="Ask for a reference, such as TASK@prod: the answer has its present name.",
        )

    def _asked(self, base_model: str | None) -> ExportOptions:
        label = base_model if self._places.relabel else None
        return replace(self._places.options, base_model=label)

    def _ways(self, base_model: str | None) -> list[ExportOptions]:
        """Return the ways to make a directory, the one asked for first."""
        plain = (
            ExportOptions(profile=profile, base_model=label)
            for profile in PROFILES
            for label in (None, base_model)
        )
        return list(dict.fromkeys([self._asked(base_model), *plain]))

    def _version(self, ref: str) -> tuple[TaskVersion, TaskNote]:
        context, space = self.registry()
        return version_and_note(context, ref, space)

    @one_thread()
    def _rebuild(self, row: TaskVersion, note: TaskNote, options: ExportOptions) -> RebuiltFiles:
        """Return the files of a version.

        Raises IntegrityError, also where an object is gone, NotFoundError where the sizes of the
        base model are not known, and RefusedError.
        """
        context, _ = self.registry()
        try:
            label = base_label(context, row.space)
            adapter = rebuild_for(context, row, note, options)
        except NotFoundError as error:
            raise IntegrityError(
                f"{row.ref} cannot be rebuilt: {error.message}", hint=error.hint
            ) from error
        return files_of_adapter(row, adapter, options=options, label=label, outside=self._outside)

    def _remember(self, recipe: _Recipe, name: str) -> str:
        if len(self._names) < _MOST_REMEMBERED:
            self._names[recipe] = name
        return name


def _lacks_base(row: TaskVersion, error: NotFoundError) -> RefusedError:
    """Return the refusal of a version whose files depend on what this machine does not have."""
    _LOG.warning("%s cannot be made into a file: %s", row.ref, error)
    return RefusedError(
        f"{row.ref} cannot be made into a file for its server: this machine does not have the "
        "config.json of its base model.",
        hint="Start this with base_config=... as the place of one that is there.",
    )


def _refs_of(name: str) -> Iterator[str]:
    """Yield the references that an immutable name may be of: names may have two hyphens too."""
    stem, version, _ = name.rsplit("-", 2)
    stem = stem.removesuffix("-")
    parts = stem.split("--")
    for cut in range(1, len(parts)):
        space, task = "--".join(parts[:cut]), "--".join(parts[cut:])
        if is_name(space) and is_name(task):
            yield f"{space}/{task}@{version}"
