"""What the shell completes: methods, losses, their settings, folders of shards."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import click
from click.shell_completion import CompletionItem

MANIFEST = "manifest.json"


def complete_method(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of methods."""
    from mpinewton.methods import METHODS

    return _items(METHODS, incomplete)


def complete_loss(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of losses; after a colon the settings of the loss."""
    from mpinewton.losses import LOSSES

    name, colon, given = incomplete.partition(":")
    if not colon or name not in LOSSES:
        return _items(LOSSES, incomplete)
    *before, last = given.split(",")
    head = f"{name}:{''.join(f'{item},' for item in before)}"
    return _items((f"{head}{field.name}=" for field in fields(LOSSES[name])), f"{head}{last}")


def complete_setting(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Settings of the method that the command line names."""
    from mpinewton.methods import METHODS
    from mpinewton.settings import describe

    # click gives no arguments while the value of an option is missing; the shells give all words.
    words = [ctx.params.get("method"), *os.environ.get("COMP_WORDS", "").split()]
    kind = next((METHODS[word] for word in words if word and word in METHODS), None)
    return [] if kind is None else _items((f"{name}=" for name, *_ in describe(kind)), incomplete)


def complete_data(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders of shards, and folders that may contain some."""
    folder, slash, last = incomplete.rpartition("/")
    try:
        entries = sorted(Path(folder + slash or ".").iterdir())
    except OSError:
        return []
    found = [path for path in entries if path.is_dir() and path.name.startswith(last) and path.name[0] != "."]
    packed = [path for path in found if (path / MANIFEST).exists()]
    # A folder of shards is complete; if there is none, the shell goes one folder deeper.
    return [
        CompletionItem(f"{folder}{slash}{path.name}{'' if path in packed else '/'}") for path in packed or found
    ]  # fmt: skip


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
