"""Hints are spoken in options, not in Python."""

import pytest

from share_registry.cli.output import FALLBACK, for_terminal


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (
            "Give task='cola' to add a version to it, or another name.",
            "Give --task cola to add a version to it, or another name.",
        ),
        ("Name the task: task=...", "Name the task: --task"),
        ("Give task=.", "Give --task."),
        ("Pick another name, or give exist_ok=True.", "Pick another name, or give --exist-ok."),
        (
            "give allow_base_mismatch=True, or create the space with base_labels.",
            "give --allow-base-mismatch, or create the space with --base-label.",
        ),
        (
            "Commit with keep_original=True (or budget=0), without exact=True.",
            "Commit with --keep-original (or --budget 0), without --exact.",
        ),
        (
            "Retry with idempotency_key='a1-b2': it never",
            "Retry with --idempotency-key a1-b2: it never",
        ),
        (
            "Name one with space=, -s or $SHARE_REGISTRY_SPACE.",
            "Name one with -s or $SHARE_REGISTRY_SPACE.",
        ),
        ("Name the space with space= or -s.", "Name the space with -s."),
        ("Give labels=, metrics= or remove=.", "Give --label, --metric or --remove."),
        (
            "Give store= (--store) or set $SHARE_REGISTRY_STORE.",
            "Give --store or set $SHARE_REGISTRY_STORE.",
        ),
        (
            "Create it with mode 'c' or `share-registry init`.",
            "Create it with `share-registry init`.",
        ),
        ("Open it with mode 'w'.", "Use a verb that writes, such as `share-registry init`."),
        ("Name every task once: cola=adapters/cola.", "Name every task once: cola=adapters/cola."),
        (
            "Give one option per label or metric: --label team=search.",
            "Give one option per label or metric: --label team=search.",
        ),
        (
            "Create it: create_space('my-base', base_model='/mnt/my models/x').",
            "Create it: `share-registry create-space my-base --base-model '/mnt/my models/x'`.",
        ),
        ("", FALLBACK),
    ],
)
def test_a_hint_is_spoken_in_options(hint: str, said: str) -> None:
    assert for_terminal(hint) == said
