"""Thousands of adapters of every awkward kind: errors are true, budgets kept, nothing else moves.

The error of each is worked out again from what a checkout gives, in numpy alone.
"""

import json
import os
from collections.abc import Callable, Iterator
from math import sqrt
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import share_registry as sr

SOAK: Final = int(os.environ.get("SOAK_ABSORPTIONS", "3000"))
TASKS: Final = 12
RANK, WIDTH, OUT = 6, 40, 28
MODULES: Final = ("q", "v")
BUDGETS: Final = (0.05, 0.01, 0.0)
TRUE: Final = 1e-6
"""Recorded errors are measured in float64, with products in another order than here."""
LOOKED_AT: Final = 5
"""Earlier versions that are exported again after every few commits."""

Factors = dict[str, NDArray[np.float32]]
Make = Callable[[np.random.Generator, list[Factors]], Factors]


def _keys() -> Iterator[tuple[str, str]]:
    for module in MODULES:
        stem = f"base_model.model.layer.{module}"
        yield f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def _factors(make: Callable[[tuple[int, int]], NDArray[np.float64]]) -> Factors:
    factors = {}
    for a, b in _keys():
        factors[a] = make((RANK, WIDTH)).astype(np.float32)
        factors[b] = make((OUT, RANK)).astype(np.float32)
    return factors


def _well(random: np.random.Generator, _: list[Factors]) -> Factors:
    return _factors(lambda shape: random.normal(size=shape))


def _near(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    """An earlier one, changed in the last digits of its numbers."""
    base = earlier[int(random.integers(len(earlier)))]
    noise = _well(random, [])
    return {key: value + np.float32(1e-7) * noise[key] for key, value in base.items()}


def _dependent(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    """Rows that are sums of rows of earlier ones, some of them twice."""
    first, second = (earlier[int(random.integers(len(earlier)))] for _ in range(2))
    factors = {key: first[key] + second[key] for key in first}
    for a, b in _keys():
        factors[a][1], factors[b][:, 1] = factors[a][0], factors[b][:, 0]
    return factors


def _zero(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    """As training begins: B is zero."""
    factors = _well(random, earlier)
    for _, b in _keys():
        factors[b][:] = 0.0
    return factors


def _huge(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    return {key: value * np.float32(1e12) for key, value in _well(random, earlier).items()}


def _tiny(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    return {key: value * np.float32(1e-14) for key, value in _well(random, earlier).items()}


def _duplicate(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    return earlier[int(random.integers(len(earlier)))]


def _steep(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    """Rows of which each is ten times weaker than the one before."""
    factors = _well(random, earlier)
    for a, _ in _keys():
        factors[a] *= np.logspace(0, -RANK, RANK, dtype=np.float32)[:, None]
    return factors


def _lopsided(random: np.random.Generator, earlier: list[Factors]) -> Factors:
    """One module is 1e8 times the other."""
    factors = _well(random, earlier)
    for key in [*factors][:2]:
        factors[key] *= np.float32(1e4)
    for key in [*factors][2:]:
        factors[key] *= np.float32(1e-4)
    return factors


KINDS: Final[tuple[Make, ...]] = (
    _well,
    _near,
    _dependent,
    _zero,
    _huge,
    _tiny,
    _duplicate,
    _steep,
    _lopsided,
)


def _write(folder: Path, factors: Factors) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(factors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "acme/absorbing",
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": [*MODULES],
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _error(factors: Factors, folder: Path) -> float:
    """Return the pooled relative error of dW of what was exported, in float64."""
    exported = load_file(folder / "adapter_model.safetensors")
    wrong = whole = 0.0
    for a, b in _keys():
        product = factors[b].astype(np.float64) @ factors[a].astype(np.float64)
        decoded = exported[b].astype(np.float64) @ exported[a].astype(np.float64)
        wrong += float(np.square(decoded - product).sum())
        whole += float(np.square(product).sum())
    return sqrt(wrong / whole) if whole else sqrt(wrong)


def _absorb(tmp_path: Path, count: int, *, seed: int) -> None:
    random = np.random.default_rng(seed)
    earlier: list[Factors] = [_well(random, [])]
    digests: dict[str, str] = {}
    with sr.Registry.open(tmp_path / "registry") as registry:
        for number in range(count):
            kind = KINDS[number % len(KINDS)]
            budget = BUDGETS[int(random.integers(len(BUDGETS)))]
            factors = kind(random, earlier)
            folder = _write(tmp_path / "adapter", factors)
            commit = registry.commit(
                folder, task=f"t{number % TASKS:02}", budget=budget, allow_duplicate=True
            )
            where = (seed, number, kind.__name__, budget)
            assert commit.created, where
            assert commit.report is not None
            export = registry.export(commit.ref, tmp_path / "export", overwrite=True)
            error = _error(factors, export.path)
            assert commit.report.error <= budget, where
            assert error <= commit.report.error * (1 + TRUE) + 1e-12, where
            assert error >= commit.report.error * (1 - TRUE) - 1e-12, where
            digests[commit.ref] = export.digest
            earlier = [*earlier[-30:], factors]
            if number % 10 == 9:
                for ref in random.choice(sorted(digests), LOOKED_AT):
                    again = registry.export(str(ref), tmp_path / "again", overwrite=True)
                    assert again.digest == digests[str(ref)], (where, ref)
        assert registry.verify("deep").ok


def test_adapters_of_every_kind_are_absorbed_truly(tmp_path: Path) -> None:
    _absorb(tmp_path, 6 * len(KINDS), seed=1)


@pytest.mark.soak
def test_thousands_of_adapters_of_every_kind_are_absorbed_truly(tmp_path: Path) -> None:
    _absorb(tmp_path, SOAK, seed=2)
