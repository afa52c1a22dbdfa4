"""Feed parsers with mutated bytes: run as a process of its own, without torch.

Every input is made from the seed and its number alone, so that one that fails can be made again.
"""

import argparse
import faulthandler
import json
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

from share_registry.errors import ShareRegistryError
from tests.fuzz.mutations import mutate
from tests.fuzz.parsers import Parser, parsers

MEMORY_BYTES: Final = 256 << 20
"""What reading may take beside what the process has before the first input."""
LONGEST_S: Final = 2.0
"""Of processor time for one input."""
HANGS_S: Final = 10.0
"""Of processor time for one input, which ends the process: a loop in C takes no exception."""
MOST_FAILURES: Final = 20


def content_of(parser: Parser, seed: int, number: int) -> bytes:
    """Return the input of a parser by its number."""
    rng = Random(f"{seed}/{number}")
    return mutate(rng.choice(parser.corpus), rng, parser.corpus)


def failure_of(parser: Parser, content: bytes) -> str:
    """Return what is wrong with reading an input, empty where nothing."""
    start = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, HANGS_S)
    try:
        parser.read(content)
    except ShareRegistryError as error:
        if not error.message.strip():
            return "an error without a message"
    except BaseException as error:  # noqa: BLE001 whatever else comes out is a fault
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({frame.filename}:{frame.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    used_s = time.process_time() - start
    return f"{used_s:.1f} s of processor time" if used_s > LONGEST_S else ""


def run(seed: int, inputs: int) -> dict[str, object]:
    """Read inputs of every parser by its weight; return counts and what failed."""
    start, failures, counts = time.monotonic(), [], Counter[str]()
    with TemporaryDirectory() as folder:
        table = parsers(Path(folder))
        names = [name for name, parser in table.items() for _ in range(parser.weight)]
        _limit_memory()
        for number in range(inputs):
            name = names[number % len(names)]
            content = content_of(table[name], seed, number)
            failure = failure_of(table[name], content)
            counts[name] += 1
            if failure:
                failures.append({"parser": name, "number": number, "failure": failure})
            if len(failures) >= MOST_FAILURES:
                break
    return {
        "inputs": counts.total(),
        "seconds": round(time.monotonic() - start, 1),
        "counts": counts,
        "failures": failures,
        "torch": "torch" in sys.modules,
    }


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Run, and print the result as JSON."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seed", type=int, required=True)
    arguments.add_argument("--inputs", type=int, required=True)
    options = arguments.parse_args()
    # a class of letters such as `[[a]` is read as it always was
    warnings.simplefilter("ignore", FutureWarning)
    faulthandler.register(signal.SIGVTALRM, chain=True)
    sys.stdout.write(json.dumps(run(options.seed, options.inputs), indent=2))


if __name__ == "__main__":
    main()
