"""The command line of every service: ``--config FILE``, ``--set key=value``, and ``--help`` with all settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from paceline.config.load import describe, load
from paceline.core.errors import InvalidRequest

SettingsT = TypeVar("SettingsT")


def parse(cls: type[SettingsT], prog: str, description: str, argv: Sequence[str], env: Mapping[str, str]) -> SettingsT:
    """The settings; exits with 2 and one line on standard error for bad ones."""
    parser = argparse.ArgumentParser(
        prog,
        description=description,
        epilog=_settings_help(cls),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML, JSON or TOML file of settings")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable")
    arguments = parser.parse_args(argv)
    try:
        overrides = [_split(text) for text in arguments.set]
        return load(cls, file=arguments.config, env=env, overrides=overrides)
    except InvalidRequest as error:
        parser.exit(2, f"{prog}: {error}\n")


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidRequest(f"--set {text}: write key=value, such as server.listen=127.0.0.1:50051.")
    return key, value


def _settings_help(cls: type[object]) -> str:
    lines = ["settings (flag --set > environment > file > default):"]
    for doc in describe(cls):
        lines += [f"  {doc.key} = {doc.default!r}  [{doc.variable}]", f"      {doc.doc}"]
    return "\n".join(lines)
