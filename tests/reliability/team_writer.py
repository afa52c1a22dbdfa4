"""One writer of a team, in a process of its own: commits, and says each key that was acknowledged.

`python -m tests.reliability.team_writer FOLDER WRITER COUNT`, with the registry in the environment.
Every other commit is of the task that all writers share.
"""

import sys
from pathlib import Path

import torch

import share_registry as sr
from tests.cli.tiny import write_adapter

SHARED = "shared"


def main(folder: Path, writer: int, count: int) -> None:
    torch.set_num_threads(1)
    with sr.Registry.open(mode="w") as registry:
        for number in range(count):
            key = f"{writer}-{number}"
            registry.commit(
                write_adapter(folder / key, seed=1000 * writer + number),
                task=SHARED if number % 2 else f"own-{writer}",
                idempotency_key=key,
            )
            sys.stdout.write(f"{key}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
