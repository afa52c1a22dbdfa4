"""The tools compared in benchmarks/peers.py behind one interface.

A collection of adapters at one setting becomes bytes on disk and an error.

Peers are used through their own API and read back from what they saved. Both have a knob k;
vlora-dev also has a packed form (NF4), and its tensors can be cast to half precision before they
are saved, which it does not offer as a form but allows. What k directions give is cut from one
build with all of them: the same numbers as a build with that k, since both order their directions
by energy. Errors are |dW' - dW| / |dW| over all modules of an adapter, mean over adapters.
"""

import copy
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

import share_registry as sr

Factors = Mapping[str, tuple[Tensor, Tensor]]
"""A (r, in) and B (out, r) in float64, by module."""
MODEL: Final = "adapter_model.safetensors"
_SECANTS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A collection at one setting."""

    setting: str
    size_bytes: int
    error: float


class Rival(Protocol):
    """A tool with a collection in it and settings ordered from small to large."""

    name: str
    forms: tuple[str, ...]

    def settings(self) -> int:
        """Return the largest k."""

    def point(self, k: int, form: str) -> Point:
        """Return bytes and error at k directions a module and side."""

    def factors(self, k: int, form: str) -> dict[str, Factors]:
        """Return what comes back for every adapter, by its name."""


def factors_of(folder: Path) -> Factors:
    """Return the factor pairs of a PEFT directory."""
    return by_module(load_file(folder / MODEL))


def by_module(tensors: Mapping[str, Tensor]) -> Factors:
    """Return tensors with PEFT's keys as factor pairs by module."""
    modules = {
        key.removeprefix("base_model.model.").split(".lora_A")[0]: key
        for key in tensors
        if ".lora_A" in key
    }
    return {
        name: (
            tensors[key].to(torch.float64),
            tensors[key.replace("lora_A", "lora_B")].to(torch.float64),
        )
        for name, key in modules.items()
    }


def error(factors: Factors, original: Factors) -> float:
    """Return the pooled relative Frobenius error of dW = B A, from small Grams.

    All modules have the same scale.
    """
    wrong = total = 0.0
    for module, (a, b) in original.items():
        a_found, b_found = factors[module]
        both_a, both_b = (
            torch.linalg.qr(torch.cat([a_found, a]).mT).R,
            torch.linalg.qr(torch.cat([b_found, -b], 1)).R,
        )
        wrong += float((both_b @ both_a.mT).square().sum())
        total += float((torch.linalg.qr(b).R @ torch.linalg.qr(a.mT).R.mT).square().sum())
    return sqrt(wrong / total)


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def mean_error(collection: Mapping[str, Factors], originals: Mapping[str, Factors]) -> float:
    """Return the mean over adapters."""
    errors = [error(collection[name], original) for name, original in originals.items()]
    return sum(errors) / len(errors)


class _Peer:
    """What both peers share: the originals, a place to save to, points seen before."""

    name = ""
    forms: tuple[str, ...] = ()

    def __init__(self, folders: Sequence[Path]) -> None:
        self._originals = {folder.name: factors_of(folder) for folder in folders}
        self._seen: dict[tuple[int, str], Point] = {}

    def point(self, k: int, form: str) -> Point:
        if (k, form) not in self._seen:
            with tempfile.TemporaryDirectory() as place:
                saved = self._save(k, form, Path(place) / "store")
                self._seen[k, form] = Point(
                    setting=f"k = {k}, {form}",
                    size_bytes=size_of(Path(place)),
                    error=mean_error(saved, self._originals),
                )
        return self._seen[k, form]

    def factors(self, k: int, form: str) -> dict[str, Factors]:
        with tempfile.TemporaryDirectory() as place:
            return self._save(k, form, Path(place) / "store")

    def _save(self, k: int, form: str, place: Path) -> dict[str, Factors]:
        raise NotImplementedError


class Vlora(_Peer):
    """vlora-dev: k whole adapters per module and side and their mean; k numbers per adapter."""

    name = "vlora-dev"
    forms: tuple[str, ...] = ("fp32", "NF4", "cast to fp16")

    def __init__(self, folders: Sequence[Path]) -> None:
        from vlora import SharedSubspace, load_adapter

        super().__init__(folders)
        self._full = SharedSubspace.from_adapters(
            [load_adapter(folder) for folder in folders],
            task_ids=[f.name for f in folders],
            num_components=len(folders),
        )

    def settings(self) -> int:
        return max(1, len(self._originals) - 1)

    def _save(self, k: int, form: str, place: Path) -> dict[str, Factors]:
        from vlora import SharedSubspace

        space = _vlora_cut(self._full, k)
        if form == "cast to fp16":
            space.to(dtype=torch.float16)
        (space.save_quantized if form == "NF4" else space.save)(place)
        loaded = SharedSubspace.load(place)
        return {name: vlora_factors(loaded, name) for name in self._originals}


def vlora_factors(space: Any, name: str) -> Factors:
    """Return one adapter as a vlora subspace gives it back."""
    adapter = space.reconstruct(name)
    return {
        layer: (adapter.lora_a[layer].to(torch.float64), adapter.lora_b[layer].to(torch.float64))
        for layer in adapter.layer_names
    }


def _vlora_cut(space: Any, k: int) -> Any:
    cut = copy.copy(space)
    for attribute in ("components_a", "components_b", "singular_values_a", "singular_values_b"):
        setattr(
            cut, attribute, {layer: rows[:k] for layer, rows in getattr(space, attribute).items()}
        )
    cut.means_a, cut.means_b, cut.num_components = dict(space.means_a), dict(space.means_b), k
    cut.tasks = {name: copy.copy(task) for name, task in space.tasks.items()}
    for task in cut.tasks.values():
        task.loadings_a = {layer: row[:k] for layer, row in task.loadings_a.items()}
        task.loadings_b = {layer: row[:k] for layer, row in task.loadings_b.items()}
    return cut


class Lorashare(_Peer):
    """lorashare: k columns per module and side, k x r numbers per adapter, without the mean."""

    name = "lorashare"
    forms: tuple[str, ...] = ("fp32",)

    def __init__(self, folders: Sequence[Path]) -> None:
        from lorashare import SHAREModel

        super().__init__(folders)
        self._most = min(
            side
            for a, b in next(iter(self._originals.values())).values()
            for side in (a.shape[1], b.shape[0])
        )
        self._full = SHAREModel.from_adapters(
            {folder.name: str(folder) for folder in folders},
            num_components=self._most,
            device="cpu",
        )

    def settings(self) -> int:
        return self._most

    def _save(self, k: int, form: str, place: Path) -> dict[str, Factors]:
        from lorashare import SHAREModel

        model = copy.copy(self._full)
        model.components = {
            key: columns[:, :k].contiguous() for key, columns in self._full.components.items()
        }
        model.all_loadings = {
            name: {key: rows[:k].contiguous() for key, rows in sides.items()}
            for name, sides in self._full.all_loadings.items()
        }
        model.save_pretrained(place)
        loaded = SHAREModel.from_pretrained(place)
        return {name: by_module(loaded.reconstruct(name)) for name in self._originals}


class Ours:
    """share_registry: everything in the store counts, bases included.

    The catalog (an index that can be rebuilt) does not.
    """

    name = "share_registry"

    def __init__(self, folders: Sequence[Path], *, together: bool = False) -> None:
        self._folders = folders
        self._together = together
        self._originals = {folder.name: factors_of(folder) for folder in folders}
        self._seen: dict[float, Point] = {}

    def point(self, budget: float) -> Point:
        """Return bytes and error at a budget."""
        budget = float(f"{budget:.3g}")
        if budget not in self._seen:
            with tempfile.TemporaryDirectory() as place:
                exported = self.export(budget, Path(place))
                size = sum(
                    size_of(Path(place) / "registry" / part) for part in ("objects", "spaces")
                )
                self._seen[budget] = Point(
                    setting=f"budget {budget:g}",
                    size_bytes=size,
                    error=mean_error(exported, self._originals),
                )
        return self._seen[budget]

    def export(self, budget: float, place: Path) -> dict[str, Factors]:
        """Commit all, one after another or in one commit, and export all."""
        exported = {}
        with sr.Registry.open(place / "registry") as registry:
            space = registry.create_space("all", policy=sr.Policy(budget=budget))
            if self._together:
                space.commit_many(
                    {folder.name: folder for folder in self._folders}, allow_base_mismatch=True
                )
            else:
                for folder in self._folders:
                    space.commit(folder, task=folder.name, allow_base_mismatch=True)
            for folder in self._folders:
                out = Path(space.export(folder.name, place / "export").path)
                exported[folder.name] = factors_of(out)
                shutil.rmtree(out)
        return exported

    def at_bytes(self, size_bytes: int) -> Point:
        """Return the point of the smallest error in at most that many bytes.

        It takes a few secants in log(error) between the points seen.
        """
        points = sorted(
            (*self._seen.values(), self.point(0.5), self.point(0.001)),
            key=lambda point: point.size_bytes,
        )
        low = max(
            (point for point in points if point.size_bytes <= size_bytes),
            key=lambda point: point.size_bytes,
            default=points[0],
        )
        high = next((point for point in points if point.size_bytes > size_bytes), None)
        for _ in range(_SECANTS if high is not None else 0):
            assert high is not None
            share = (size_bytes - low.size_bytes) / max(high.size_bytes - low.size_bytes, 1)
            between = self.point(
                low.error * (high.error / low.error) ** max(0.05, min(0.95, share - 0.02))
            )
            low, high = (between, high) if between.size_bytes <= size_bytes else (low, between)
        return low


def largest(rival: Rival, size_bytes: int, forms: Sequence[str]) -> Point | None:
    """Return the setting with the least error in at most that many bytes.

    None where even k = 1 takes more.
    """
    points = [point for form in forms if (point := _most(rival, size_bytes, form)) is not None]
    return min(points, key=lambda point: point.error, default=None)


def cheapest(rival: Rival, limit: float, form: str) -> Point | None:
    """Return the setting with the fewest bytes whose error is at most the limit.

    None where it has none.
    """
    low, high = 1, rival.settings()
    if rival.point(high, form).error > limit:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if rival.point(middle, form).error <= limit else (middle + 1, high)
        )
    return rival.point(low, form)


def _most(rival: Rival, size_bytes: int, form: str) -> Point | None:
    low, high = 1, rival.settings()
    if rival.point(low, form).size_bytes > size_bytes:
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if rival.point(middle, form).size_bytes <= size_bytes
            else (low, middle - 1)
        )
    return rival.point(low, form)
