"""Let coverage guide what one parser is fed with: run as a process of its own, without torch.

    python -m tests.fuzz.guided --parser record --seconds 60 --corpus FOLDER

Inputs that reach new code are added to the folder; what is no error of ours ends the process, and
the input is there as `crash-...`, `timeout-...` or `oom-...`. `python -m tests.fuzz.keep FOLDER`
keeps the inputs of many such folders, one a parser, for the runs without coverage too.
"""

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import atheris

with atheris.instrument_imports(include=["share_registry"], enable_loader_override=False):
    from tests.fuzz.mutations import mutate
    from tests.fuzz.parsers import Parser, parsers
    from tests.fuzz.run import LONGEST_S, failure_of

MEMORY_MIB: Final = 1024
"""Of the whole process, with what instrumented code takes."""
LONGEST_INPUT: Final = 1 << 14
SHARE_OF_BYTES: Final = 0.3
"""Of the changes that know nothing of what the bytes mean."""


def fuzz(parser: Parser, *, seconds: int, corpus: Path) -> None:
    """Run until the time is over; the process ends here."""
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(parser.corpus):
        (corpus / f"first-{number}").write_bytes(content)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST_INPUT}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-timeout={int(LONGEST_S * 10)}",
        f"-artifact_prefix={corpus}/",
        "-print_final_stats=1",
        str(corpus),
    ]

    def change(content: bytes, longest: int, seed: int) -> bytes:
        rng = Random(seed)
        # bytes alone seldom come past the parsing of JSON
        if rng.random() < SHARE_OF_BYTES:
            changed: bytes = atheris.Mutate(content, longest)
            return changed
        return mutate(content, rng, parser.corpus)[:longest]

    atheris.Setup([sys.argv[0], *options], checked(parser), custom_mutator=change)
    atheris.Fuzz()


def checked(parser: Parser) -> Callable[[bytes], None]:
    """Return what reads an input and raises AssertionError for what is no error of ours."""

    def read(content: bytes) -> None:
        failure = failure_of(parser, content)
        if failure:
            raise AssertionError(failure)

    return read


def main() -> None:
    """Fuzz one parser."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--parser", required=True)
    arguments.add_argument("--corpus", type=Path, required=True)
    arguments.add_argument("--seconds", type=int, default=60)
    options = arguments.parse_args()
    warnings.simplefilter("ignore", FutureWarning)
    with TemporaryDirectory() as folder:
        parser = parsers(Path(folder))[options.parser]
        fuzz(parser, seconds=options.seconds, corpus=options.corpus)


if __name__ == "__main__":
    main()
