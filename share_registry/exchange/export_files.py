"""Exported files: an adapter as the files of a plain PEFT directory.

Pure: the same adapter and facts give the same bytes.
"""

from collections.abc import Mapping
from typing import Final, Literal

import torch

from share_registry.errors import IntegrityError, InvalidInputError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.attachments import README, SOURCE_README, TENSOR_FILE
from share_registry.exchange.config import CONFIG_FILE
from share_registry.exchange.model_card import CardFacts, card_text
from share_registry.exchange.portable import portable
from share_registry.exchange.serving_lint import lint
from share_registry.exchange.tensors import item_of
from share_registry.format import safetensors_file
from share_registry.format.layout import Layout

Profile = Literal["native", "portable"]
PROFILES: Final[tuple[Profile, ...]] = ("native", "portable")


def files_of(
    adapter: Adapter, *, profile: Profile, card: CardFacts
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files of an export and notes on what servers would make of them.

    Args:
        adapter: The adapter.
        profile: "native": the adapter's own keys, config bytes, ranks and element types.
            "portable": scale folded into B, one rank, lora_alpha = r, a minimal config.
        card: What the model card says.

    Raises:
        RefusedError: the portable form does not exist for this adapter.
    """
    if profile not in PROFILES:
        raise InvalidInputError(
            f"profile {profile!r} is unknown, expected one of {', '.join(PROFILES)}.",
            hint="native is the adapter as it was, portable means the same in every server.",
        )
    plain, notes = (
        (adapter, ()) if profile == "native" else portable(adapter, base_model=card.base_model)
    )
    files = _attached(plain.attachments)
    files[CONFIG_FILE] = plain.config_bytes
    files[TENSOR_FILE] = tensor_file(plain.layout, plain.tensors)
    files[README] = card_text(card, profile=profile)
    return dict(sorted(files.items())), (*notes, *lint(plain.config, plain.layout))


def tensor_file(layout: Layout, tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return adapter_model.safetensors: metadata and tensors in layout order, written canonically.

    Raises InvalidInputError where they do not fit.
    """
    try:
        return safetensors_file.write(
            [(entry.name, entry.value) for entry in layout.metadata],
            [item_of(spec.key, tensors[spec.key]) for spec in layout.tensors],
        )
    except IntegrityError as error:
        raise InvalidInputError(
            error.message, hint="Give one tensor for every key of the layout, in its shape."
        ) from error


def _attached(attachments: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the attachments under the names they are exported by: the card takes the readme's."""
    readmes = [name for name in sorted(attachments) if name.casefold() == README.casefold()]
    files = {name: content for name, content in attachments.items() if name not in readmes}
    for name in readmes:
        number, target = 1, SOURCE_README
        while target in files:
            number, target = number + 1, f"README.source.{number + 1}.md"
        files[target] = attachments[name]
    return files
