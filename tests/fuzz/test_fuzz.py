"""Hostile bytes end in errors of the library, at once and in little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from share_registry.errors import FormatError, ShareRegistryError
from tests.fuzz.mutations import mutate
from tests.fuzz.parsers import Parser, parsers
from tests.fuzz.run import content_of, failure_of
from tests.house.tree import ROOT

INPUTS = 80_000
SOAK_INPUTS = 1_000_000
NAMES = sorted(parsers(Path()))


def fuzz(*, seed: int, inputs: int, timeout_s: float) -> None:
    """Run a process that reads inputs; whatever is no error of ours is a failure."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", f"--seed={seed}", f"--inputs={inputs}"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout)
    assert result["failures"] == []
    assert result["inputs"] == inputs
    assert not result["torch"]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_no_mutation_gets_more_out_of_a_parser_than_an_error_of_ours() -> None:
    fuzz(seed=20, inputs=INPUTS, timeout_s=300)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_no_mutation_of_very_many_does() -> None:
    inputs = int(os.environ.get("SOAK_INPUTS", SOAK_INPUTS))
    fuzz(seed=Random().randrange(1 << 32), inputs=inputs, timeout_s=inputs / 100 + 600)


@pytest.mark.soak
@pytest.mark.parametrize("parser", NAMES)
def test_what_coverage_leads_to_gets_no_more_out_of_a_parser(parser: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="it has no wheel for this platform")
    seconds = int(os.environ.get("SOAK_SECONDS", "20"))
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "tests.fuzz.guided", f"--parser={parser}"),
            *(f"--seconds={seconds}", f"--corpus={tmp_path}"),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds + 300,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "stat::number_of_executed_units" in ended.stderr


def test_inputs_depend_on_seed_and_number_alone(tmp_path: Path) -> None:
    parser = parsers(tmp_path)["record"]
    inputs = [content_of(parser, 1, number) for number in range(50)]
    assert inputs == [content_of(parser, 1, number) for number in range(50)]
    assert len(set(inputs)) > 40
    assert inputs != [content_of(parser, 2, number) for number in range(50)]


def test_every_parser_accepts_some_inputs_and_refuses_others_in_many_ways(tmp_path: Path) -> None:
    few_ways = {"texts", "attachments", "checkpoint"}
    for name, parser in parsers(tmp_path).items():
        outcomes = {_outcome(parser, number) for number in range(1000)}
        assert "" in outcomes, name
        assert len(outcomes) > 8 or name in few_ways, name


@pytest.mark.parametrize(
    ("error", "failure"),
    [(TypeError("no list"), "TypeError: no list"), (MemoryError(), "MemoryError"), (None, "")],
)
def test_what_is_no_error_of_ours_is_a_failure(error: Exception | None, failure: str) -> None:
    def read(_: bytes) -> None:
        if error is not None:
            raise error

    assert failure_of(Parser(read=read, corpus=[b"{}"]), b"{}").startswith(failure)


def test_an_error_of_ours_is_none_unless_it_says_nothing() -> None:
    def read(content: bytes) -> None:
        raise FormatError(content.decode())

    parser = Parser(read=read, corpus=[b"{}"])
    assert failure_of(parser, b"it is of another format.") == ""
    assert "without a message" in failure_of(parser, b" ")


def test_values_of_every_kind_stand_where_others_stood() -> None:
    content = b'{"a":{"b":["c",1]}}'
    seen = set()
    for number in range(3000):
        try:
            value = json.loads(mutate(content, Random(number), [content]))
            seen.add(type(value["a"]["b"][0]).__name__)
        except (ValueError, LookupError, TypeError):
            continue
    assert seen >= {"str", "int", "float", "bool", "NoneType", "list", "dict"}


def _outcome(parser: Parser, number: int) -> str:
    try:
        parser.read(content_of(parser, 1, number))
    except ShareRegistryError as error:
        return str(error)[-120:]
    return ""
