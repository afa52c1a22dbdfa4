"""What one damaged object takes with it, and the bytes, with and without a limit on dependents.

    python -m benchmarks.dependents [--versions N] [--change F] [--limits N ...]

A task gets so many versions of a real adapter, each the one before with noise in its factors: in
dW a relative change of F, as continued training makes it (0.2 to 0.3). Dependents are counted from
what decoding each version reads: the previous versions that it passes through, and the objects
whose rows these refer to.
"""

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

import share_registry as sr
from benchmarks.peers import DEMO
from share_registry.format.records import (
    AbsorbRecord,
    MergeRecord,
    Record,
    RefitRecord,
    parse_record,
)
from share_registry.names import Digest, SpaceName

SOURCE: Final = DEMO / "wn-pos-gloss" / "v1"
_TENSORS: Final = "adapter_model.safetensors"


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--versions", type=int, default=60)
    parser.add_argument("--change", type=float, default=0.25)
    parser.add_argument("--limits", type=int, nargs="*", default=[20, 10, 5])
    options = parser.parse_args()
    torch.set_num_threads(1)
    policies = {
        "default": sr.Policy(),
        **{f"max_dependents={n}": sr.Policy(max_dependents=n) for n in options.limits},
        "references=False": sr.Policy(references=False),
    }
    print("| policy | dependents of v1 | most of any object | kB |\n| --- | --- | --- | --- |")
    for name, policy in policies.items():
        with tempfile.TemporaryDirectory() as folder:
            directories = write_versions(Path(folder), options.versions, options.change)
            _measure(name, policy, directories)


def write_versions(root: Path, count: int, change: float) -> Iterator[Path]:
    """Yield the directories of versions, each the one before with noise in its factors."""
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(SOURCE / _TENSORS)
    # a change of x in both factors is one of x * sqrt(2) in their product
    share = change / 2**0.5
    for number in range(count):
        directory = root / f"v{number + 1}"
        shutil.copytree(SOURCE, directory)
        save_file(tensors, directory / _TENSORS, metadata={"format": "pt"})
        yield directory
        tensors = {
            key: tensor
            + share
            * tensor.square().mean().sqrt()
            * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
            if "lora_" in key
            else tensor
            for key, tensor in tensors.items()
        }


def _measure(name: str, policy: sr.Policy, directories: Iterator[Path]) -> None:
    with sr.Registry.open("memory://") as registry:
        space = registry.create_space("minilm", base_model="minilm", policy=policy)
        for directory in directories:
            space.commit(directory, task="t", allow_base_mismatch=True)
        needs = needs_of(registry, "minilm")
        dependents = Counter(need for own in needs.values() for need in own)
        first = next(iter(needs))
        size = sum(registry.context.store.size(adapter) or 0 for adapter in needs)
    most = max(dependents.values(), default=0)
    print(f"| {name} | {dependents[first]} | {most} | {size / 1e3:.0f} |", flush=True)


def needs_of(registry: sr.Registry, space: str) -> dict[Digest, set[Digest]]:
    """Return the adapter objects of a space in the order of its log, and what each needs.

    That is what decoding it reads: its previous versions, and the objects whose rows they refer to.
    """
    reader, store = registry.context.reader(), registry.context.store
    needs = {}
    for number in store.numbers(SpaceName(space)):
        content = store.record(SpaceName(space), number) or b""
        for adapter in adapters_of(parse_record(content, subject=f"record c{number}")):
            chain = reader.chain(adapter)
            sources = {source for link in chain for source in reader.open(link).stored.sources}
            needs[adapter] = {*chain, *sources} - {adapter}
    return needs


def adapters_of(record: Record) -> list[Digest]:
    """Return the adapter objects that a record names."""
    if isinstance(record, AbsorbRecord | RefitRecord | MergeRecord):
        return [Digest(task.adapter) for task in record.tasks]
    return []


if __name__ == "__main__":
    main()
