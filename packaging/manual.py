"""Write the man pages of `kubesync`, generated from its commands: manual.py FOLDER.

packaging/build-deb runs it with the operators' commands on PYTHONPATH. Knows click; must not know any command by name.
"""

# ruff: noqa: INP001 (it is a program)

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kubesyncd import __version__
from kubesyncd.cli.click_groups import Group
from kubesyncd.cli.root import root

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTION = "1"
EXIT_CODES = (
    ("0", "done"),
    ("1", "failed; the line on standard error says what to do"),
    ("64", "invalid command line, or not confirmed"),
    ("69", "kubesyncd, Redis, Docker or the master does not answer"),
    ("77", "not allowed; use sudo"),
    ("78", "invalid settings file"),
)


def main() -> None:
    """Write one page per command to the folder that is given."""
    if len(sys.argv) != 2:
        sys.exit("usage: manual.py FOLDER")
    write(Path(sys.argv[1]), date())


def write(folder: Path, day: str) -> None:
    """Write the pages of `kubesync` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in every_page(root, day):
        (folder / f"{name}.{SECTION}").write_text(text, encoding="utf-8")


def date() -> str:
    """Return the date of the release being built, so that the same tree gives the same pages."""
    at = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def every_page(command: click.Command, day: str) -> Iterator[tuple[str, str]]:
    """Yield name and text of each command's page, groups included."""
    yield from _pages(click.Context(command, info_name="kubesync", **command.context_settings), day)


def _pages(ctx: click.Context, day: str) -> Iterator[tuple[str, str]]:
    yield ctx.command_path.strip().replace(" ", "-"), page(ctx, day)
    for name, command in children(ctx):
        yield from _pages(click.Context(command, info_name=name, parent=ctx), day)


def children(ctx: click.Context) -> list[tuple[str, click.Command]]:
    """Return the visible commands of a group; its NAME form is documented on the group's own page."""
    if not isinstance(ctx.command, click.Group):
        return []
    return [(name, command) for name, command in sorted(ctx.command.commands.items()) if not command.hidden]


def page(ctx: click.Context, day: str) -> str:
    """Build one page in roff."""
    command = ctx.command
    path = ctx.command_path.strip()
    title = path.replace(" ", "-")
    lines = [
        f'.TH "{title.upper()}" "{SECTION}" "{day}" "kubesyncd {__version__}" "SONiC"',
        # Never hyphenate or stretch words that are typed.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{roff(title)} \\- {roff(_first_sentence(command))}",
        ".SH SYNOPSIS",
        *_synopsis(ctx),
        ".SH DESCRIPTION",
        *_paragraphs(command.help or ""),
    ]
    each = command.each if isinstance(command, Group) else None
    if each is not None:
        lines += [".PP", *_paragraphs(each.help or "")]
    lines += _options(ctx, command)
    if each is not None:
        lines += _options(ctx, each)
    inner = children(ctx)
    if inner:
        lines.append(".SH COMMANDS")
        for name, child in inner:
            lines += [".TP", f"\\fB{roff(path)} {roff(name)}\\fR", f"{roff(_first_sentence(child))}."]
            lines.append(f"See \\fB{roff(title)}-{roff(name)}\\fR({SECTION}).")
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f"\\fB{code}\\fR", roff(meaning)]
    lines += [".SH SEE ALSO", ", ".join(_neighbours(ctx))]
    return "\n".join(lines) + "\n"


def _synopsis(ctx: click.Context) -> list[str]:
    path = roff(ctx.command_path.strip())
    pieces = " ".join(ctx.command.collect_usage_pieces(ctx))
    lines = [f"\\fB{path}\\fR {roff(pieces)}"]
    each = ctx.command.each if isinstance(ctx.command, Group) else None
    if each is not None:
        lines += [".br", f"\\fB{path}\\fR {roff(' '.join(each.collect_usage_pieces(ctx)))}"]
    return lines


def _options(ctx: click.Context, command: click.Command) -> list[str]:
    shown = [param for param in command.params if isinstance(param, click.Option)]
    records = [record for param in shown if (record := param.get_help_record(ctx)) is not None]
    lines = [".SH OPTIONS"] if records else []
    for spelling, text in records:
        lines += [".TP", f"\\fB{roff(spelling)}\\fR", roff(text)]
    return lines


def _neighbours(ctx: click.Context) -> list[str]:
    parents = []
    above = ctx.parent
    while above is not None:
        parents.append(above.command_path.strip().replace(" ", "-"))
        above = above.parent
    return [*(f"\\fB{roff(name)}\\fR({SECTION})" for name in reversed(parents)), "\\fBkubesyncd\\fR(8)"]


def _first_sentence(command: click.Command) -> str:
    text = " ".join((command.help or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


def _paragraphs(text: str) -> list[str]:
    lines = []
    for number, paragraph in enumerate(text.replace("\b", "").strip().split("\n\n")):
        lines += [".PP"] if number else []
        lines.append(roff(" ".join(paragraph.split())))
    return lines


def roff(text: str) -> str:
    """Escape text for roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    main()
