"""Rot of any kind is found by `verify`, and never comes out of a checkout or an export.

Without a catalog, which would know more: every bit of a small store, every length of each of its
files, and one bit of every byte of a larger one. The short form takes a sample of each.
"""

import hashlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest

import share_registry as sr
from share_registry.errors import FormatError, IntegrityError, NotFoundError, RefusedError
from tests.cli.tiny import SPACE, write_adapter
from tests.reliability.registries import opened

# Byte and bit of a flip, or the length that a file is cut to
Rot = tuple[Path, int, int | None]
SAMPLE = 120
DAMAGE = (IntegrityError, FormatError, NotFoundError, RefusedError)
REFS = ("first@v1", "first@v2", "second@v1", "first@prod")


def _small(root: Path, top: Path) -> None:
    with sr.Registry.open(root) as registry:
        registry.create_space(SPACE, base_model="tiny-org/Tiny-Model")
        registry.set_policy(sr.Policy(budget=0.5), space=SPACE)
        registry.set_policy(sr.Policy(budget=0.25), space=SPACE)


def _larger(root: Path, top: Path) -> None:
    folders = [write_adapter(top / f"a{seed}", seed=seed) for seed in range(3)]
    with sr.Registry.open(root) as registry:
        registry.commit(folders[0], task="first", message="one", labels={"a": "b"})
        registry.commit(folders[1], task="first")
        registry.commit(folders[2], task="second", keep_original=True)
        registry.set_alias("first@v1", "prod")


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _flips(root: Path, *, bits: range) -> list[Rot]:
    return [
        (path, place, bit)
        for path in _files(root)
        for place in range(path.stat().st_size)
        for bit in bits
    ]


def _cuts(root: Path) -> list[Rot]:
    return [(path, size, None) for path in _files(root) for size in range(path.stat().st_size)]


def _sample(rot: list[Rot], count: int) -> list[Rot]:
    """Take some of every file, the first and the last among them."""
    by_file: dict[Path, list[Rot]] = {}
    for item in rot:
        by_file.setdefault(item[0], []).append(item)
    each = max(2, count // len(by_file))
    numbers = Random(7)
    return [
        item
        for own in by_file.values()
        for item in {own[0], own[-1], *numbers.sample(own, min(each, len(own)))}
    ]


def _answers(root: Path, out: Path) -> dict[str, str]:
    """Return a digest of what every reference is checked out and exported as, or its refusal."""
    answers = {}
    with opened(root, mode="r") as registry:
        for ref in REFS:
            reads: dict[str, Callable[[], str]] = {
                "checkout": partial(_checked_out, registry, ref),
                "export": partial(_exported, registry, ref, out),
            }
            for name, read in reads.items():
                try:
                    answers[f"{name} {ref}"] = read()
                except DAMAGE:
                    answers[f"{name} {ref}"] = "refused"
    return answers


def _checked_out(registry: sr.Registry, ref: str) -> str:
    adapter = registry.checkout(ref)
    digest = hashlib.sha256(adapter.config_bytes)
    for key, tensor in sorted(adapter.tensors.items()):
        digest.update(key.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _exported(registry: sr.Registry, ref: str, out: Path) -> str:
    shutil.rmtree(out, ignore_errors=True)
    return registry.export(ref, out, name="adapter").digest


def _is_found(root: Path) -> bool:
    try:
        with opened(root, mode="r") as registry:
            return bool(registry.verify("data", raise_on_damage=False).findings)
    except DAMAGE:
        return True


def survive(root: Path, rots: list[Rot], *, out: Path | None) -> None:
    """Let files rot one at a time; none may go unnoticed or come out."""
    sound = {} if out is None else _answers(root, out)
    assert "refused" not in sound.values()
    for path, place, bit in rots:
        content = path.read_bytes()
        rotten = bytearray(content)
        if bit is None:
            del rotten[place:]
        else:
            rotten[place] ^= 1 << bit
        path.unlink()
        path.write_bytes(rotten)
        try:
            assert _is_found(root), f"{path.relative_to(root)}: {place}, {bit}"
            if out is not None:
                try:
                    answers = _answers(root, out)
                except DAMAGE:
                    answers = {}
                wrong = {
                    name: answer
                    for name, answer in answers.items()
                    if answer not in ("refused", sound[name])
                }
                assert not wrong, f"{path.relative_to(root)}: {place}, {bit}: {wrong}"
        finally:
            path.unlink()
            path.write_bytes(content)
    assert not _is_found(root)


@pytest.fixture
def store(quick_path: Path) -> "Build":
    def build(fill: Callable[[Path, Path], None]) -> Path:
        fill(quick_path / "registry", quick_path)
        (quick_path / "registry" / "catalog.sqlite").unlink()
        return quick_path / "registry"

    return build


Build = Callable[[Callable[[Path, Path], None]], Path]


def test_a_flip_or_cut_anywhere_in_a_small_store_is_found(store: Build) -> None:
    root = store(_small)
    assert sum(path.stat().st_size for path in _files(root)) <= 4096
    survive(root, _sample(_flips(root, bits=range(8)), SAMPLE), out=None)
    survive(root, _sample(_cuts(root), SAMPLE // 2), out=None)


def test_rot_is_found_and_never_comes_out(store: Build, quick_path: Path) -> None:
    root = store(_larger)
    survive(root, _sample(_flips(root, bits=range(3, 4)), SAMPLE // 2), out=quick_path / "out")


@pytest.mark.soak
def test_every_flip_and_every_cut_of_a_small_store_is_found(store: Build) -> None:
    root = store(_small)
    survive(root, _flips(root, bits=range(8)), out=None)
    survive(root, _cuts(root), out=None)


@pytest.mark.soak
def test_a_flip_in_every_byte_is_found_and_never_comes_out(store: Build, quick_path: Path) -> None:
    root = store(_larger)
    rots: list[Rot] = [
        (path, place, Random(place).randrange(8)) for path, place, _ in _flips(root, bits=range(1))
    ]
    survive(root, rots, out=quick_path / "out")
