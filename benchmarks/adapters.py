"""Synthetic collections of adapters, as PEFT directories.

Shared columns, a family of whole adapters, and nothing shared.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Floats = NDArray[np.float32]
MODULES: Final = ("q_proj", "v_proj")
_PREFIX: Final = "base_model.model.model.layers"


def write_planted(
    root: Path,
    *,
    count: int,
    rank: int,
    width: int,
    shared: int,
    noise: float,
    layers: int = 1,
    seed: int = 0,
) -> list[Path]:
    """Write adapters of mixtures of `shared` rows a module and side; return their directories.

    `noise` is the size of the added noise relative to the mixture.
    """
    rng = np.random.default_rng(seed)
    rows = {
        (layer, module, side): _orthonormal(rng, shared, width)
        for layer in range(layers)
        for module in MODULES
        for side in "AB"
    }
    return [
        _write(
            root / f"task{number}",
            {place: _mix(rng, basis, rank, noise) for place, basis in rows.items()},
            rank,
        )
        for number in range(1, count + 1)
    ]


def write_independent(
    root: Path, *, count: int, rank: int, width: int, layers: int = 1, seed: int = 0
) -> list[Path]:
    """Write adapters that share nothing; return their directories."""
    rng = np.random.default_rng(seed)
    places = [
        (layer, module, side) for layer in range(layers) for module in MODULES for side in "AB"
    ]
    directories = []
    for number in range(1, count + 1):
        factors = {
            place: (
                rng.standard_normal((rank, width)) * np.geomspace(1, 0.2, rank)[:, None]
            ).astype(np.float32)
            for place in places
        }
        directories.append(_write(root / f"task{number}", factors, rank))
    return directories


def write_family(
    root: Path,
    *,
    count: int,
    rank: int,
    width: int,
    templates: int,
    noise: float,
    layers: int = 1,
    seed: int = 0,
) -> list[Path]:
    """Write adapters of mixtures of a few whole factors plus noise; return their directories.

    A template, a whole factor, has one number in every mixture.
    """
    rng = np.random.default_rng(seed)
    places = [
        (layer, module, side) for layer in range(layers) for module in MODULES for side in "AB"
    ]
    whole = {place: rng.standard_normal((templates, rank * width)) for place in places}
    directories = []
    for number in range(1, count + 1):
        factors = {
            place: _mix(rng, points, 1, noise).reshape(rank, width)
            for place, points in whole.items()
        }
        directories.append(_write(root / f"task{number}", factors, rank))
    return directories


def write_decaying(
    directory: Path,
    *,
    shapes: Mapping[str, tuple[int, int]],
    profile: Sequence[float],
    spread: float,
    layers: int,
    seed: int = 0,
) -> Path:
    """Write one adapter of random directions; return its directory.

    `profile` has the relative singular values of dW in every module; `spread` makes modules of
    different strength.
    """
    rng = np.random.default_rng(seed)
    factors = {}
    for layer in range(layers):
        for module, (out, width) in shapes.items():
            roots = np.sqrt(np.array(profile) * np.exp(spread / 2 * rng.standard_normal()))[:, None]
            gauge = _orthonormal(rng, len(profile), len(profile))
            for side, size in (("A", width), ("B", out)):
                factors[layer, module, side] = (
                    gauge @ (roots * _orthonormal(rng, len(profile), size))
                ).astype(np.float32)
    return _write(directory, factors, len(profile))


def write_bare(folders: Sequence[Path], root: Path) -> list[Path]:
    """Copy adapters without what only some tools keep (heads, logs): weights and config alone.

    Return their directories.
    """
    directories = []
    for folder in folders:
        directory = root / f"{folder.parent.name}-{folder.name}"
        directory.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(folder / name, directory / name)
        directories.append(directory)
    return directories


def _orthonormal(rng: np.random.Generator, count: int, width: int) -> NDArray[np.float64]:
    basis: NDArray[np.float64] = np.linalg.qr(rng.standard_normal((width, count)))[0].T
    return basis


def _mix(rng: np.random.Generator, basis: NDArray[np.float64], rank: int, noise: float) -> Floats:
    clean = rng.standard_normal((rank, len(basis))) @ basis
    disturbance = rng.standard_normal(clean.shape)
    size = noise * np.linalg.norm(clean) / np.linalg.norm(disturbance)
    mixed: Floats = (clean + size * disturbance).astype(np.float32)
    return mixed


def _write(directory: Path, factors: dict[tuple[int, str, str], Floats], rank: int) -> Path:
    directory.mkdir(parents=True)
    tensors = {
        f"{_PREFIX}.{layer}.self_attn.{module}.lora_{side}.weight": (
            np.ascontiguousarray(rows if side == "A" else rows.T) * np.float32(0.05)
        )
        for (layer, module, side), rows in factors.items()
    }
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "synthetic",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(MODULES),
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    return directory
