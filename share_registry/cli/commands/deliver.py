"""Verbs that hand versions out, as directories, indexes and pages, and say what servers accept."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from share_registry.cli.completion import ALIAS, REF
from share_registry.cli.output import Printed, emit, watching
from share_registry.cli.session import session
from share_registry.cli.typed_path import TypedPath
from share_registry.cli.verb import (
    author_option,
    base_config_option,
    free_verb,
    reason_option,
    record_option,
    sign_option,
    signatory_options,
    target_options,
    verb,
)
from share_registry.errors import (
    InvalidInputError,
    RefusedError,
    ensure,
)
from share_registry.look.units import count, percent, size

if TYPE_CHECKING:
    from share_registry.registry.registry import Registry


@verb("r", doing="reading")
@click.argument("ref", type=REF)
@click.option(
    "-o",
    "--output",
    type=TypedPath(),
    required=True,
    help="Directory to write the adapter into.",
)
@click.option(
    "--device", default="cpu", metavar="DEVICE", help="Where it is decoded; the bytes are the same."
)
@click.option(
    "--dtype", metavar="DTYPE", help="float32, float16, bfloat16 or float64. [as committed]"
)
@click.option("--exact", is_flag=True, help="The original bytes, where they were kept.")
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
def checkout(
    registry: "Registry", /, ref: str, *, output: Path, overwrite: bool, **options: Any
) -> Printed:
    """Save the version REF as a PEFT directory.

    \b
    share-registry checkout cola@v1 -o work/cola
    """
    registry.context.require_apart(output)
    adapter = registry.checkout(ref, **options)
    adapter.save(output, overwrite=overwrite)
    return Printed(
        title=str(output),
        members={
            "ref": adapter.ref or ref,
            "path": output,
            "error": adapter.error,
            "tensors": len(adapter.tensors),
        },
        refs=(adapter.ref or ref,),
        detailed=True,
        shown={} if adapter.error is None else {"error": percent(adapter.error)},
    )


@verb("r", doing="exporting", writing="record")
@click.argument("ref", type=REF)
@click.argument("root", type=TypedPath())
@click.option(
    "--name",
    metavar="NAME",
    help="Directory below ROOT; '' writes into ROOT itself. "
    "[<task>-v<N>-<digest>, or <task>-v<N>-portable-<digest>]",
)
@target_options
@base_config_option
@click.option("--dtype", metavar="DTYPE", help="For llama.cpp: float32 or float16. [float32]")
@click.option("--overwrite", is_flag=True, help="Replace what stands there.")
@sign_option
@record_option
@reason_option
@author_option
def export(registry: "Registry", /, ref: str, root: Path, **options: Any) -> object:
    """Place the version REF below ROOT.

    It becomes a PEFT directory with an immutable name; the same digest already there is success.
    What a --target refuses or misreads is refused before anything is written. For llama.cpp it
    becomes one GGUF file, which ROOT names where it ends in .gguf; for diffusers, the directory
    has a file for pipelines.

    \b
    share-registry export cola@prod serve/
    share-registry export cola@v3 serve/ --profile portable
    share-registry export cola@v3 serve/ --target vllm
    share-registry export cola@v3 cola.gguf --target llama.cpp --base-config models/llama/
    share-registry export cola@v3 serve/ --sign key.pem --record
    """
    return registry.export(ref, root, **options)


@free_verb
@click.argument("root", type=TypedPath())
@click.option(
    "--alias", type=ALIAS, default="prod", show_default=True, metavar="NAME", help="Of what."
)
@target_options
@click.option(
    "--base-model",
    metavar="NAME",
    help="What the configs name as base model: what the server calls it. [what they named]",
)
@base_config_option
@click.option("--prune", is_flag=True, help="Remove what has not been served for --grace-days.")
@click.option(
    "--grace-days",
    type=float,
    default=1.0,
    show_default=True,
    metavar="DAYS",
    help="How long what is served no longer stays, for requests in flight; 0.04 is an hour.",
)
def sync(root: Path, **options: Any) -> None:
    """Keep everything that is behind an alias below ROOT, for servers to load from.

    Each version becomes a directory under a name of its own, and index.json lists those that are
    served. Safe to run again and again, and on several hosts at once. Exits with code 7 where a
    version could not be exported, or is refused by the --target: the one before it is served on.

    \b
    share-registry sync serve/
    share-registry sync serve/ --target vllm --base-model meta-llama/Llama-3.1-8B
    share-registry sync serve/ --alias canary --profile portable --prune --grace-days 0.04
    """
    asked = session()
    with watching("syncing", asked) as progress, asked.open("r") as registry:
        report = registry.sync(root, progress=progress, **options)
    emit(report, asked)
    ensure(
        not report.failed,
        RefusedError(
            f"{count(report.failed, 'version')} of {len(report.tasks)} could not be exported.",
            hint="What was served before is served on. The reasons say what to do.",
        ),
    )


@free_verb
@click.argument("directory", type=TypedPath())
@signatory_options
@click.option("--signature", metavar="FILE", help="File of the signature. [DIRECTORY.sig]")
def verify_export(directory: Path, **options: Any) -> object:
    """Check that DIRECTORY is what somebody signed, every byte of it; needs no registry.

    Exits with code 5 where a file was changed, added or removed, or somebody else signed it.

    \b
    share-registry verify-export serve/cola-v3-1a2b3c4d --key key.pub
    """
    from share_registry import verify_export

    return verify_export(directory, **options)


@verb("r", doing="reading")
@click.argument("ref", required=False)
@click.option(
    "-o",
    "--output",
    type=TypedPath(is_output=True),
    required=True,
    metavar="FILE",
    help="HTML file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace another report that stands there.")
def report(registry: "Registry", /, ref: str | None, *, output: Path, overwrite: bool) -> Printed:
    """Write a report of the version REF, or of the space, as one HTML file to hand on.

    Of a version it has modules, spectra, lineage and history; of a space its tasks, aliases,
    retention and log, and whether the registry is sound. The file needs no script and no network.

    \b
    share-registry report cola@prod -o cola.html
    share-registry -s minilm report -o minilm.html
    """
    registry.context.require_apart(output)
    page = registry.report(ref)
    path = page.save(output, overwrite=overwrite)
    size_bytes = len(page.content.encode())
    return Printed(
        title=f"{path}: {page.subject} at {page.state}, {size(size_bytes)}",
        members={
            "subject": page.subject,
            "state": page.state,
            "path": path,
            "size_bytes": size_bytes,
        },
        refs=(str(path),),
    )


@verb("r", doing="reading")
@click.argument("file", metavar="FILE", type=TypedPath(is_output=True))
@click.argument("refs", metavar="[REF]...", nargs=-1, type=REF)
@click.option(
    "--alias",
    type=ALIAS,
    metavar="NAME",
    help="The version behind this alias of every task that has it.",
)
@click.option(
    "--modules",
    metavar="EXPRESSION",
    help="Only modules whose whole path this regular expression matches, like '.*query'.",
)
@click.option(
    "--max-rank",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most so many rows of a task and module, the strongest. [all]",
)
def routing_index(
    registry: "Registry", /, file: Path, refs: tuple[str, ...], **options: Any
) -> Printed:
    """Write an index of versions into FILE, that says which of them answers an input best.

    Of the versions REF, or of the newest version of every task. An earlier FILE is replaced.

    \b
    share-registry routing-index routes.safetensors --alias prod
    share-registry routing-index routes.safetensors cola@v2 sst2 --modules '.*query' --max-rank 4
    """
    ensure(
        file.suffix == ".safetensors",
        InvalidInputError(
            f"{str(file)!r} is no name of a safetensors file.",
            hint="Name the file first, then versions: routes.safetensors cola@prod.",
        ),
    )
    registry.context.require_apart(file)
    index = registry.routing_index(refs or None, **options)
    place = index.save(file)
    size_bytes = registry.context.outside.size(place) or 0
    return Printed(
        title=str(place),
        members={
            "path": place,
            "tasks": [task.ref for task in index.tasks],
            "modules": list(index.modules),
            "size_bytes": size_bytes,
        },
        refs=tuple(task.ref for task in index.tasks),
        detailed=True,
        shown={
            "tasks": str(len(index.tasks)),
            "modules": str(len(index.modules)),
            "size_bytes": size(size_bytes),
        },
    )


@free_verb
@click.argument("ref", type=REF)
@click.option(
    "--target",
    metavar="SERVER",
    help="peft, vllm, sglang, lorax, llama.cpp, openvino, onnxruntime or diffusers.  [default: all"
    " that serve models of its kind]",
)
@click.option(
    "--profile",
    type=click.Choice(["native", "portable"]),
    default="native",
    help="Same keys and ranks, or the form that every server reads alike.",
)
def lint(*, ref: str, target: str | None, profile: str) -> None:
    """Show what servers refuse, misread or need of an export of the version REF.

    Of one server, exit code 7 where it refuses or misreads it.

    \b
    share-registry lint cola@prod
    share-registry lint cola@prod --target vllm --profile portable
    """
    asked = session()
    with watching("checking", asked), asked.open("r") as registry:
        report = registry.lint(ref, target=target, profile=profile)
    emit(report, asked)
    if target is not None and not report.ok:
        hints = dict.fromkeys(verdict.hint for verdict in report.verdicts if verdict.hint)
        raise RefusedError(
            f"{target} does not serve {report.ref} as it is.",
            hint=" ".join(hints) or f"`share-registry lint {report.ref}` shows who does.",
        )
