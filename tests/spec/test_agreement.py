"""The two readers agree on what nobody thought of.

Random values, and good files with bytes changed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings, strategies as st

import share_registry as sr
from share_registry.format import basis_object
from share_registry.format.adapter_object import decode, header
from share_registry.format.canonical import dump, load
from share_registry.format.layout import Layout
from share_registry.stored import StoredAdapter
from spec import good
from spec.writing import sha256
from tests.spec import readers
from tests.spec.readers import VECTORS, kind_of, reference

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.text(st.characters(max_codepoint=127), max_size=4)
LEAVES = TEXTS | st.booleans() | st.integers(1 - (1 << 53), (1 << 53) - 1)
VALUES = st.dictionaries(
    NAMES,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
        max_leaves=8,
    ),
)
FILES = sorted(path for path in (VECTORS / "good").glob("*.*.json"))
STORES = [store for name, store in good.stores().items() if name != "history"]
OBJECTS = {sha256(content): content for store in STORES for content in store.values()}
ADAPTERS = [content for content in OBJECTS.values() if b'"kind\\":\\"adapter' in content]
BASES = [content for content in OBJECTS.values() if b'"kind\\":\\"basis' in content]
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(VALUES)
def test_canonical_json_is_rfc_8785_on_the_profile(value: Any) -> None:
    """Spec JSN-01."""
    content = dump(value)
    assert content == rfc8785.dumps(value) == reference.canonical(value).encode()
    assert load(content, subject="value") == value


@QUICK
@given(st.data())
def test_both_readers_agree_on_a_changed_json_object(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    content = _change(data, path.read_bytes())
    assert _is_refused(lambda: readers.read_by_library(content, kind_of(path))) == _is_refused(
        lambda: readers.read_by_reference(content, kind_of(path))
    )


@QUICK
@given(st.data())
def test_both_readers_agree_on_a_changed_adapter_object(data: st.DataObject) -> None:
    """They refuse it, or read the same numbers from it."""
    content = _change(data, data.draw(st.sampled_from(ADAPTERS)))
    try:
        parsed = _by_reference(content)
    except reference.DamagedError:
        with pytest.raises((sr.IntegrityError, sr.FormatError)):
            _by_library(content)
        return
    stored = _by_library(content)
    assert dict(stored.verbatim) == parsed.kept
    assert dict(stored.external) == parsed.external
    _check_modules(stored, parsed.modules)


@QUICK
@given(st.data())
def test_both_readers_agree_on_a_changed_basis_object(data: st.DataObject) -> None:
    """They refuse it, or read the same rows from it (spec BAS-01 to BAS-07)."""
    content = _change(data, data.draw(st.sampled_from(BASES)))
    try:
        modules = reference.parse_basis(content)
    except reference.DamagedError:
        with pytest.raises((sr.IntegrityError, sr.FormatError)):
            basis_object.decode(content)
        return
    stored = basis_object.decode(content)
    assert list(stored.modules) == list(modules)
    for name, blocks in stored.modules.items():
        assert all(
            np.array_equal(ours, theirs.own)
            for ours, theirs in zip(blocks, modules[name], strict=True)
        )


def _by_library(content: bytes) -> StoredAdapter:
    return decode(content, Layout.from_bytes(_layout(header(content).layout)))


def _by_reference(content: bytes) -> Any:
    return reference.parse_adapter(content, _layout)


def _layout(digest: str, limit: int = 0) -> bytes:
    if digest not in OBJECTS:
        raise (
            reference.DamagedError("OBJ-02: there is no such layout")
            if limit
            else sr.IntegrityError("there is no such layout")
        )
    return OBJECTS[digest]


def _check_modules(stored: StoredAdapter, modules: Mapping[str, Any]) -> None:
    for ours, theirs in zip(stored.modules, modules.values(), strict=True):
        assert (ours is None) == (theirs is None)
        for side, reference_side in zip(
            (ours.a, ours.b) if ours else (), theirs or (), strict=True
        ):
            assert side.previous == reference_side.previous
            assert np.array_equal(side.own, reference_side.own)
            assert np.array_equal(side.scales, reference_side.scales)
            assert [(term.source, term.exponent) for term in side.terms] == [
                (source, exponent) for source, exponent, _ in reference_side.terms
            ]
            assert all(
                np.array_equal(term.coefficients, rows)
                for term, rows in zip(side.terms, reference_side.coefficients, strict=True)
            )


def _change(data: st.DataObject, content: bytes) -> bytes:
    """Change, cut out or put in a few bytes."""
    position = data.draw(st.integers(0, len(content) - 1))
    cut = data.draw(st.integers(0, 2))
    return content[:position] + data.draw(st.binary(max_size=2)) + content[position + cut :]


def _is_refused(read: Any) -> bool:
    try:
        read()
    except (sr.IntegrityError, sr.FormatError, reference.DamagedError):
        return True
    return False


def test_there_are_adapters_of_every_lane() -> None:
    assert len(ADAPTERS) > 20
    assert len(BASES) > 2
    assert {Path(kind_of(path)).stem for path in FILES} == {"record", "note", "layout", "format"}
