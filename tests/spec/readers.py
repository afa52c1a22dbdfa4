"""The two readers side by side: what each does with one vector."""

import io
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import share_registry as sr
import spec.reader
from share_registry.format import basis_object
from share_registry.format.adapter_object import decode, header
from share_registry.format.canonical import load, sha256
from share_registry.format.format_file import parse_format
from share_registry.format.layout import DType, Layout
from share_registry.format.notes import Note
from share_registry.format.records import parse_record
from share_registry.format.tensor_object import decode_tensor
from tests.house.tree import ROOT

VECTORS = ROOT / "spec" / "vectors"
TENSOR = {"dtype": "F32", "shape": [6]}
"""What the tensor objects among the bad vectors stand for."""


MAX_SECONDS = 1.0
MAX_BYTES = 256 << 20
"""What refusing a bad vector may take: forged bytes are no way to keep a reader busy."""
PEAK = Path("/proc/self/clear_refs")

reference: Any = spec.reader
CLAUSES = {"record": "REC-01", "note": "NOT-01", "format": "STO-03"}


class OneObject(reference.Store):  # type: ignore[misc]
    """A store of one object and the layouts among the good vectors."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def get(self, digest: str, limit: int = 0) -> bytes:
        return layouts().get(digest, self.content)


def layouts() -> dict[str, bytes]:
    """Return the layouts among the good vectors by digest."""
    return {
        sha256(path.read_bytes()): path.read_bytes()
        for path in (VECTORS / "good").glob("*.layout.json")
    }


def kind_of(path: Path) -> str:
    """Return what a vector is: the part of its name behind the first dot."""
    return path.name.partition(".")[2]


def read_by_library(content: bytes, kind: str) -> object:
    """Read a vector of one file as the library does. Raises ShareRegistryError."""
    match kind:
        case "json":
            return load(content, subject="vector")
        case "record.json":
            return parse_record(content)
        case "note.json":
            return Note.from_bytes(content)
        case "layout.json":
            return Layout.from_bytes(content)
        case "format.json":
            return parse_format(content)
        case "adapter.safetensors":
            return decode(content, Layout.from_bytes(layouts()[header(content).layout]))
        case "basis.safetensors":
            return basis_object.decode(content)
        case "tensor.safetensors":
            return decode_tensor(content, dtype=DType.F32, size=24)
    raise AssertionError(kind)


def read_by_reference(content: bytes, kind: str) -> object:
    """Read a vector of one file as the reference reader does. Raises DamagedError."""
    match kind:
        case "json":
            return reference.parse(content, "note", "NOT-01")
        case "layout.json":
            return reference.parse_layout(content)
        case "adapter.safetensors":
            return reference.parse_adapter(content, OneObject(content).get)
        case "basis.safetensors":
            return reference.parse_basis(content)
        case "tensor.safetensors":
            return reference.parse_tensor(content, TENSOR)
    name = kind.removesuffix(".json")
    return reference.parse(
        content,
        name,
        CLAUSES[name],
        reference.MAX_FORMAT if name == "format" else reference.MAX_JSON,
    )


def refusal(name: str) -> Any:
    """Return the error by which the reference reader refuses a bad vector, by its name."""
    if name.startswith(("REC-14", "EVO-02")):
        return reference.NewerError
    if name.startswith("NOT-06"):
        return reference.RemovedError
    return reference.LargeError if name.startswith("DEC-13") else reference.DamagedError


def refusal_of_library(name: str) -> tuple[type[sr.ShareRegistryError], ...]:
    """Return the errors by which the library may refuse a bad vector, by its name."""
    if refusal(name) is reference.NewerError:
        return (sr.FormatError,)
    if refusal(name) is reference.LargeError:
        return (sr.RefusedError,)
    if refusal(name) is reference.RemovedError:
        return sr.NotFoundError, sr.IntegrityError
    return sr.IntegrityError, sr.FormatError, sr.NotFoundError


def unpack(path: Path, directory: Path) -> Path:
    """Return a whole store on disk: a copy of a directory of vectors, or an archive."""
    if path.is_dir():
        for file in (file for file in path.rglob("*") if file.is_file()):
            target = directory / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    else:
        zipfile.ZipFile(io.BytesIO(path.read_bytes())).extractall(directory)
    return directory


def export_by_reference(root: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the files of every version of a store that was not removed, by its reference.

    Dropped and renamed tasks are included. Raises NewerError behind the last where a log goes on
    in another format.
    """
    store = reference.Store(root)
    for ref, version in versions_by_reference(store):
        if "removed" not in version:
            yield ref, reference.export(store, version)
    for space in store.spaces():
        if (newer := store.log(space).newer) is not None:
            raise newer


def versions_by_reference(store: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every version that the reference reader knows of, under each name of its task."""
    for space in store.spaces():
        for name, task in sorted(store.log(space).tasks.items()):
            for number, version in enumerate(task.versions, 1):
                yield f"{space}/{name}@v{number}", version


def export_by_library(registry: sr.Registry, ref: str, directory: Path) -> dict[str, bytes]:
    """Return the files of an export."""
    export = registry.export(ref, directory, name=ref.replace("/", "-").replace("@", "-"))
    return {path.name: path.read_bytes() for path in export.path.iterdir()}


def read_all(root: Path, out: Path) -> None:
    """Verify a store and export all its tasks, as the library does."""
    with sr.Registry.open(root, mode="r") as registry:
        registry.verify("deep")
        for task in registry.tasks():
            registry.export(task.ref, out)


@contextmanager
def bounded(seconds: float = MAX_SECONDS) -> Iterator[None]:
    """Fail where more processor time or, on Linux, more memory is taken than a vector is worth."""
    begun, memory = time.process_time(), _reset_peak()
    yield
    assert time.process_time() - begun < seconds
    assert _memory("VmHWM") - memory < MAX_BYTES


def _reset_peak() -> int:
    """Forget the largest memory that this process had; return what it has."""
    if PEAK.exists():
        PEAK.write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    """Return a size of this process in bytes; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
