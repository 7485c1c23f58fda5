"""Stand in for sonic-utilities: the parts of `config` and `show` that plugins touch, and the plugin loader.

The shapes of their groups and the loader's contract, none of their work: each command says only who it is. As a
program it is typed like theirs, with the libraries that lie in SITE in place of ours:

    python -m tests.lab.sonic_utilities SITE config|show WORD…
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])

import click

if TYPE_CHECKING:
    from types import ModuleType


# The versions that sonic-utilities pin: of 202405 and 202505, and of the newest that later ones accept.
CLICKS = ("7.0", "8.1.8")


def click_of(version: str) -> Path | None:
    """The folder of one of CLICKS, where `make engines` has brought it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = cache / "kubesyncd" / f"click-{version}" / "click"
    return found if found.exists() else None


class AbbreviationGroup(click.Group):
    """An unambiguous beginning is enough, and so is one that all it could be begin with: the shortest is meant."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        exact = super().get_command(ctx, cmd_name)
        if exact is not None:
            return exact
        matches = [name for name in self.list_commands(ctx) if name.lower().startswith(cmd_name.lower())]
        shortest = min(matches, key=len, default="")
        if not all(name.startswith(shortest) for name in matches):
            ctx.fail(f"Too many matches: {', '.join(sorted(matches))}")
        return super().get_command(ctx, shortest) if matches else None


class AliasedGroup(click.Group):
    """An unambiguous beginning is enough: the root of `show`."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        exact = super().get_command(ctx, cmd_name)
        if exact is not None:
            return exact
        matches = [name for name in self.list_commands(ctx) if name.lower().startswith(cmd_name.lower())]
        if len(matches) > 1:
            ctx.fail(f"Too many matches: {', '.join(sorted(matches))}")
        return super().get_command(ctx, matches[0]) if matches else None


class Loader:
    """Imports what lies in a plugin package and lets it register; `problems` are what it would log."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def load(self, package: ModuleType, root: click.Group) -> None:
        for _, name, is_package in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if is_package:
                self.load(importlib.import_module(name), root)
                continue
            try:
                importlib.import_module(name).register(root)
            except Exception as error:
                self.problems.append(f"failed to import plugin {name}: {error}")


def said(text: str) -> Any:
    """A command's body that says who it is."""
    return lambda **arguments: click.echo(f"{text} {sorted(arguments.values(), key=str)}")


def command(name: str, *arguments: str, optional: bool = False) -> click.Command:
    """A command of sonic-utilities' own."""
    params = [click.Argument([argument], required=not optional) for argument in arguments]
    return click.Command(name, callback=said(f"sonic {name}"), params=list(params))


def group(name: str, *commands: click.Command, kind: type[click.Group] = AbbreviationGroup) -> click.Group:
    """A group of sonic-utilities' own."""
    return kind(name, commands={str(c.name): c for c in commands}, callback=lambda: None)


def config() -> click.Group:
    """`config`, whose root takes the shortest of several meanings."""
    feature = group(
        "feature",
        command("owner", "name", "owner"),
        command("fallback", "name", "fallback"),
        command("state", "name", "state"),
        command("autorestart", "name", "autorestart"),
    )
    server = group(
        "server",
        *(command(name, "value") for name in ("ip", "port", "insecure", "disable", "theirs")),
        kind=click.Group,
    )
    label = group("label", command("add", "key", "val"), command("drop", "key"), kind=click.Group)
    kubernetes = group("kubernetes", server, label, command("theirs"))
    return group("config", feature, kubernetes, command("kdump"), command("load_minigraph"))


def show() -> click.Group:
    """`show`, whose root takes no ambiguous word."""
    feature = group(
        "feature", *(command(name, "name", optional=True) for name in ("status", "config", "autorestart"))
    )
    server = group("server", command("config"), command("status"), kind=click.Group)
    kubernetes = group("kubernetes", server, command("labels"), command("theirs"))
    return group("show", feature, kubernetes, command("version"), command("kdump"), kind=AliasedGroup)


ROOTS = {"config": config, "show": show}

if __name__ == "__main__":
    chosen = sys.argv[2]
    root, loader = ROOTS[chosen](), Loader()
    loader.load(importlib.import_module(f"{chosen}.plugins"), root)
    print(*loader.problems, sep="\n", end="", file=sys.stderr)
    root.main(sys.argv[3:], prog_name=chosen)
