"""Expressions of configs match what they match in `re`, in bounded work."""

import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from share_registry.errors import RefusedError, ShareRegistryError
from share_registry.exchange.config import check_targets, settings_of
from share_registry.exchange.expressions import (
    UnboundedExpressionError,
    Work,
    compile_ending,
    compile_expression,
)
from share_registry.exchange.importers.formats import read_place
from share_registry.exchange.selection import roles_of
from share_registry.format.layout import DType, TensorSpec
from share_registry.outside.files import Outside
from tests.cli.tiny import write_adapter
from tests.exchange.edits import set_config
from tests.exchange.peft_configs import UNSLOTH, UNSLOTH_2026

LIMIT_S = 1.0
"""Of processor time for one config; the usual takes a millisecond."""
LETTERS = "ab._1-Q\n"
ATOMS = [
    *"ab_1-Q",
    ".",
    r"\.",
    r"\d",
    r"\w",
    r"\W",
    "[ab]",
    "[^a.]",
    "[]a]",
    r"[\d.]",
    "a1",
    "{",
    "é",
]
EDGES = ["^", "$", r"\b", r"\B", r"\A", r"\Z", "(?=a)", "(?!b.)", "(?<=a)", "(?<![.1])", "(?=.*b)"]
REPETITIONS = ["", "*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{,2}", "{2,}", "{0}"]
# Texts that take exponential or high polynomial time in `re`.
CATASTROPHES = [
    "(a|a)" * 40 + "b",
    "(a?b?|a)" * 20 + "x",
    "(.|.)" * 40 + "x",
    "(a+)+x",
    "(a*)*x",
    "((a*)*)*x",
    "(a|aa)+x",
    "(a|a?)+x",
    "(.*a){30}x",
    "(.*)*(.*)*(.*)*x",
    ".*.*.*.*.*.*.*.*x",
    ".*?a" * 20 + "x",
    "a?" * 60 + "a" * 60 + "x",
    "(?=(a+)+x)a",
    "(?!(a|a)*x)b",
    "(?:(?:(?:a?){9}){9}){9}x",
    "(a{0,60}){0,60}x",
    "([a-z]+.?)+[^.]x",
    "(\\w|\\.|a)*-",
    "(x+x+)+y|(a|b|ab)*c",
]
NESTED = ["(" * 5000 + "a" + ")" * 5000, "a{99999999999999999999}", "(?:" * 60 + "a" + ")*" * 60]
# What real adapters have, of several trainers.
REAL = [
    r".*\.(q|v)_proj",
    r"model\.layers\.(\d+)\..*",
    r".*\.layers\.(1[0-9]|2[0-3])\.self_attn\.(q|k|v|o)_proj",
    r"^(?!.*(lm_head|vision_tower)).*(?:q_proj|k_proj|down_proj)$",
    r"^(model\.language_model(?=\.).*\.(q_proj|k_proj|down_proj))$",
    r"(transformer_)?blocks\.\d{1,2}\.attn\.to_[qkv](\.0)?",
    r"(?i).*\.Q_Proj",
    UNSLOTH,
    UNSLOTH_2026,
]
PATHS = [
    "model.layers.3.self_attn.q_proj",
    "model.language_model.layers.11.mlp.down_proj",
    "model.layers.17.mlp.experts.3.up_proj",
    "model.vision_tower.blocks.3.attn.qkv",
    "transformer_blocks.12.attn.to_out.0",
    "blocks.1.attn.to_q.0",
    "lm_head",
    "model.layers.10.self_attn.o_proj",
]


def expressions() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(ATOMS).flatmap(
        lambda atom: st.sampled_from(REPETITIONS).map(lambda repetition: atom + repetition)
    )

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        groups = st.tuples(
            st.sampled_from(["(", "(?:", "(?P<n>"]), inner, st.sampled_from(REPETITIONS)
        ).map(lambda parts: f"{parts[0]}{parts[1]}){parts[2]}")
        looks = st.tuples(st.sampled_from(["(?=", "(?!"]), inner).map(
            lambda two: f"{''.join(two)})"
        )
        return st.one_of(
            st.lists(inner, min_size=1, max_size=4).map("".join),
            st.lists(inner, min_size=2, max_size=3).map("|".join),
            groups,
            looks,
        )

    return st.recursive(leaves | st.sampled_from(EDGES), larger, max_leaves=8)


def compiles(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


@settings(max_examples=1500)
@given(expressions(), st.lists(st.text(LETTERS, min_size=1, max_size=9), min_size=1, max_size=9))
@example("(a|b)$|^b", ["a\n", "b"])
@example("(?:a??b?)*?", ["ab" * 4])
def test_an_expression_matches_what_it_matches_in_re(text: str, paths: list[str]) -> None:
    if not compiles(text):
        with pytest.raises(ValueError, match=r"."):
            compile_expression(text, Work())
        return
    expression, ending = compile_expression(text, Work()), compile_ending(text, Work())
    for path in paths:
        assert expression.matches(path) == bool(re.fullmatch(text, path)), (text, path)
        assert expression.matches_beginning(path) == bool(re.match(text, path)), (text, path)
        assert ending.matches(path) == bool(re.match(rf"(.*\.)?({text})$", path)), (text, path)


@settings(max_examples=300)
@given(st.text("a.b", max_size=4), st.text("a.b\n", min_size=1, max_size=8))
def test_letters_and_dots_match_what_they_match_in_re(text: str, path: str) -> None:
    matches = bool(re.match(rf"(.*\.)?({text})$", path))
    assert compile_ending(text, Work()).matches(path) == matches


@pytest.mark.parametrize("text", REAL)
def test_expressions_of_real_configs_are_read_as_peft_reads_them(text: str) -> None:
    expression = compile_expression(text, Work())
    matches = {path for path in PATHS if expression.matches(path)}
    assert matches == {path for path in PATHS if re.fullmatch(text, path)}
    assert matches


@pytest.mark.parametrize(
    "text", ["(a)\\1", "(?P<n>a)(?P=n)", "(a)?(?(1)b|c)", "(?>a*)", "a*+", "a{2}+"]
)
def test_what_cannot_be_bounded_is_refused(text: str) -> None:
    with pytest.raises(UnboundedExpressionError, match=r"."):
        compile_expression(text, Work())


FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "target_modules": lambda text: {"target_modules": text},
    "exclude_modules": lambda text: {"exclude_modules": text},
    "modules_to_save": lambda text: {"modules_to_save": [text]},
    "rank_pattern": lambda text: {"rank_pattern": {text: 2}},
    "alpha_pattern": lambda text: {"alpha_pattern": {text: 2}},
    "layers_pattern": lambda text: {
        "target_modules": ["a"],
        "layers_to_transform": [1],
        "layers_pattern": [text],
    },
}


def used_s(config: dict[str, Any], paths: list[str]) -> float:
    """Return the processor time that a config takes; only errors of ours may come out."""
    factors = {
        path: TensorSpec(key=f"{path}.lora_A.weight", dtype=DType.F32, shape=[2, 4])
        for path in paths
    }
    start = time.process_time()
    with suppress(ShareRegistryError):
        check_targets(config)
        roles_of(settings_of(config), factors)
    return time.process_time() - start


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("text", [*CATASTROPHES, *NESTED])
def test_an_expression_that_could_run_for_ever_ends_at_once(field: str, text: str) -> None:
    paths = ["a" * 60, "a" * 400, ".a" * 200, "model.layers.1.a"]
    assert used_s({"peft_type": "LORA", **FIELDS[field](text)}, paths) < LIMIT_S


def many(text: str) -> list[str]:
    return [f"{text}{number}" for number in range(60_000)]


@pytest.mark.soak
@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": dict.fromkeys(many("a."), 2), "target_modules": ["q"]},
        {"rank_pattern": dict.fromkeys(many("a+"), 2)},
        {"modules_to_save": many("a")},
        {"target_parameters": many("a.")},
        {"target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": many("a")},
        {"target_modules": "(a|.)*" * 30},
    ],
    ids=["plain patterns", "patterns", "saved", "parameters", "layers", "an expression"],
)
def test_many_expressions_and_many_modules_end(config: dict[str, Any]) -> None:
    paths = [f"model.layers.{number}.experts.q" for number in range(20_000)]
    assert used_s(config, paths) < 30 * LIMIT_S


def test_the_work_of_one_path_and_of_all_is_bounded() -> None:
    expression = compile_expression(r"(?:.(?!(?:.(?!x))*y))*z", Work())
    with pytest.raises(
        RefusedError, match=r"takes more than 65536 steps on the path 'ab"
    ) as caught:
        expression.matches("ab" * 250)
    assert caught.value.hint
    work = Work(steps=3000)
    ending = compile_ending("a+b", work)
    with pytest.raises(RefusedError, match=r"expressions take more than"):
        deque(map(ending.matches, ["a.b"] * 3000), maxlen=0)


def test_an_adapter_with_a_hostile_config_is_read_at_once(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", seed=1)
    set_config(directory, rank_pattern={"(.|.)" * 40 + "x": 2}, target_modules="(.|.)*" * 40)
    start = time.process_time()
    adapter = read_place(directory, outside=Outside())
    assert time.process_time() - start < LIMIT_S
    assert {pair.scale for pair in adapter.factor_pairs()} == {2.0}


def test_an_expression_with_a_reference_back_is_not_evaluated(tmp_path: Path) -> None:
    directory = write_adapter(tmp_path / "a", seed=1)
    set_config(directory, target_modules=r".*(e)l\1.*|query|value")
    adapter = read_place(directory, outside=Outside())
    assert any("unbounded work" in note for note in adapter.remarks)
    assert all(pair.scale for pair in adapter.factor_pairs())
    set_config(directory, rank_pattern={r"(a)\1": 2})
    with pytest.raises(RefusedError, match=r"rank_pattern has .* with .*, expected one"):
        read_place(directory, outside=Outside())
