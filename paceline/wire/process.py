"""The main function of every service: settings from flags, environment and file, then run until a signal."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from paceline.config.arguments import parse
from paceline.core.errors import PacelineError

SettingsT = TypeVar("SettingsT")


def main(
    settings_type: type[SettingsT],
    prog: str,
    description: str,
    run: Callable[[SettingsT], Coroutine[Any, Any, None]],
) -> None:
    """Exit 2 for bad settings, 1 when the service can't start; one line on standard error says why."""
    settings = parse(settings_type, f"python -m {prog}", description, sys.argv[1:], os.environ)
    errors: list[BaseException] = []
    try:
        asyncio.run(run(settings))
    except* PacelineError as group:  # what is raised in here may come out wrapped in a group
        errors = _leaves(group)
    for error in errors:
        sys.stderr.write(f"{prog}: {error}\n")
    if errors:
        sys.exit(1)


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    nested = [_leaves(one) if isinstance(one, BaseExceptionGroup) else [one] for one in group.exceptions]
    return [leaf for leaves in nested for leaf in leaves]
