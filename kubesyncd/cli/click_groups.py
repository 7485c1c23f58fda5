"""Extend click: command prefixes, groups that take a name, one-line errors.

Knows click and the errors of `ports`; must not know any command by name. Unique prefixes work as in SONiC's own
groups. Compatible with click 7.0, the version that sonic-utilities pin.
"""

from __future__ import annotations

import difflib
import sys
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, NoReturn, TextIO

import click

from kubesyncd.cli.switch_daemon import Declined
from kubesyncd.core import protocol
from kubesyncd.ports import Forbidden, Missing, PortError, Refused
from kubesyncd.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

EXIT_SETTINGS = 78  # sysexits' EX_CONFIG, as the daemon's
CLOSE_ENOUGH = 0.6
SENTENCE_MAX = 200

# Fix for a service that does not answer, used if the error names none.
FIX = {
    "kubesyncd": "start it: systemctl start kubesyncd",
    "Redis": "start it: systemctl start database",
    "Docker": "start it: systemctl start docker",
    "Kubernetes": "look at: kubesync show kubernetes status",
    "systemd": "look at: systemctl status",
}


# Services whose error text is shown without the service's name in front.
SELF = ("kubesyncd", "install")


class Failure(click.ClickException):
    """An error shown as one line `kubesync: WHAT; FIX` on standard error, with an exit code."""

    def __init__(self, text: str, code: int = protocol.EXIT_FAILED) -> None:
        super().__init__(text)
        # click declares exit_code on the class; its main() reads it from the error.
        self.__dict__["exit_code"] = code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the one line. Where it cannot be written, the exit code stays what it is."""
        line = " ".join(str(self.message).split())
        try:
            print(f"kubesync: {line}", file=file or sys.stderr)
        except OSError:
            _give_up("stderr")


class OutputError(OSError):
    """Standard output cannot be written."""


class Output:
    """Standard output, whose failures can be told from those of other files: they are `OutputError`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write. Raises OutputError."""
        with _told_as_output():
            return self._stream.write(text)

    def flush(self) -> None:
        """Flush. Raises OutputError."""
        with _told_as_output():
            self._stream.flush()


@contextmanager
def _told_as_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, error.strerror) from error


def end_without_output(error: OutputError) -> NoReturn:
    """End the process, with one line: standard output cannot be written."""
    _give_up("stdout")
    Failure(f"standard output cannot be written: {error.strerror}; see where it goes").show()
    sys.exit(protocol.EXIT_FAILED)


def _give_up(stream: str) -> None:
    """Leave a standard stream unwritten: the end of the interpreter would try again, and fail with its own code."""
    setattr(sys, stream, None)


def failure_of(error: PortError | SettingsError | Declined) -> Failure:
    """Convert an error of a port, the settings or the daemon into the operator's one line."""
    if isinstance(error, SettingsError):
        return Failure(str(error), EXIT_SETTINGS)
    if isinstance(error, Declined):
        return Failure(str(error), error.code)
    text = error.detail if error.service in SELF else str(error)
    if isinstance(error.__cause__, PermissionError):
        return Failure(f"{text.partition('; ')[0]}; use sudo", protocol.EXIT_NOT_ALLOWED)
    if ";" not in text:
        text = f"{text}; {FIX.get(error.service, 'try again')}"
    if isinstance(error, Forbidden):
        return Failure(text, protocol.EXIT_NOT_ALLOWED)
    return Failure(
        text, protocol.EXIT_FAILED if isinstance(error, Refused | Missing) else protocol.EXIT_UNAVAILABLE
    )


def usage(ctx: click.Context, problem: str) -> Failure:
    """Build the Failure for a usage error: the problem, and the form to type."""
    problem = problem.rstrip(".")
    return Failure(f"{problem[:1].lower()}{problem[1:]}; type: {form(ctx)}", protocol.EXIT_USAGE)


def form(ctx: click.Context) -> str:
    """Return the command's usage form: `kubesync config kube label add KEY VALUE`."""
    command = ctx.command
    if isinstance(command, click.Group):
        words = [name for name in command.list_commands(ctx) if not command.commands[name].hidden]
        return f"{ctx.command_path} {'|'.join(words)}"
    pieces = " ".join(piece for piece in command.collect_usage_pieces(ctx) if piece)
    return f"{ctx.command_path} {pieces}".strip()


class Command(click.Command):
    """A command that reports errors in one line, with the exit codes of `interfaces.md`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("options_metavar", "")
        super().__init__(*args, **kwargs)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """See click; put options last."""
        pieces = [piece for piece in super().collect_usage_pieces(ctx) if piece]
        return [*pieces[1:], pieces[0]] if self.options_metavar else pieces

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> click.Context:
        """See click; report usage errors in one line."""
        with _usage_in_one_line(lambda: click.Context(self, info_name=info_name, parent=parent)):
            return super().make_context(info_name, args, parent=parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See click; report errors of ports, settings and daemon in one line."""
        try:
            with _usage_in_one_line(lambda: ctx):
                return super().invoke(ctx)
        except (PortError, SettingsError, Declined) as error:
            raise failure_of(error) from error


class Group(click.Group):
    """A group that finds commands by name, unique prefix (in any case) and `aliases` (alias: name).

    `each`: the command for `NAME …`; `is_name` gets all words typed and decides whether they are of that form.
    """

    def __init__(
        self,
        *args: Any,
        aliases: Mapping[str, str] | None = None,
        each: click.Command | None = None,
        is_name: Callable[[click.Group, list[str]], bool] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("options_metavar", "")
        kwargs.setdefault("subcommand_metavar", "COMMAND")
        kwargs.setdefault("no_args_is_help", False)
        super().__init__(*args, **kwargs)
        self.aliases = dict(aliases or {})
        self.each = each
        self.is_name = is_name

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command for `cmd_name`, None if unknown. Raises UsageError if it is ambiguous."""
        exact = super().get_command(ctx, cmd_name)
        if exact is not None:
            return exact
        word = cmd_name.lower()
        if word in self.aliases:
            return super().get_command(ctx, self.aliases[word])
        meant = {
            name for name, command in self.commands.items() if name.startswith(word) and not command.hidden
        }
        meant |= {name for alias, name in self.aliases.items() if alias.startswith(word)}
        if word in meant:
            meant = {word}
        if len(meant) > 1 and not ctx.resilient_parsing:
            raise click.UsageError(f"{cmd_name!a} is ambiguous: {' or '.join(sorted(meant))}", ctx)
        return super().get_command(ctx, meant.pop()) if len(meant) == 1 else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """See click; report an unknown command with the closest match and all commands."""
        if self.each is not None and self.is_name is not None and takes_name(self, self.is_name, args):
            return "", self.each, args
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            raise usage(ctx, unknown(args[0], self.list_commands(ctx)))
        return (None if command is None else command.name), command, args[1:]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """See click; wrap a long sentence instead of truncating it."""
        shown = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [(name, each.get_short_help_str(SENTENCE_MAX)) for name, each in shown if not each.hidden]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> Any:
        """See click; without a subcommand, print the group's help and exit with the usage code."""
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(protocol.EXIT_DONE if ctx.parent is None else protocol.EXIT_USAGE)
        return super().parse_args(ctx, args)

    def make_context(self, info_name: Any, args: Any, parent: Any = None, **extra: Any) -> click.Context:
        """See click; report usage errors in one line."""
        with _usage_in_one_line(lambda: click.Context(self, info_name=info_name, parent=parent)):
            return super().make_context(info_name, args, parent=parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """See click; report usage errors in one line."""
        with _usage_in_one_line(lambda: ctx):
            return super().invoke(ctx)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """See click; offer names too if the group takes a NAME."""
        offered: list[Any] = super().shell_complete(ctx, incomplete)
        if self.each is not None:
            first = next(param for param in self.each.params if isinstance(param, click.Argument))
            offered += first.shell_complete(ctx, incomplete)
        return offered


def takes_name(
    group: click.Group, is_name: Callable[[click.Group, list[str]], bool], words: list[str]
) -> bool:
    """Return whether `words` are `NAME …` for a group that takes names besides its commands."""
    return words[0] not in group.commands and not words[0].startswith("-") and is_name(group, words)


def unknown(word: str, known: list[str]) -> str:
    """Build the message for an unknown word, with the closest known word if there is one."""
    near = difflib.get_close_matches(word.lower(), known, 1, CLOSE_ENOUGH)
    said = f"{word[:40]!a} is not known"
    return f"{said}, did you mean {near[0]}?" if near else said


@contextmanager
def _usage_in_one_line(context: Callable[[], click.Context]) -> Iterator[None]:
    """Report click's usage errors in one line; `context`: for an error that has none of its own."""
    try:
        yield
    except click.UsageError as error:
        raise usage(error.ctx or context(), _message(error)) from None


def _message(error: click.UsageError) -> str:
    """Return click's message; the message of an invalid value already names the value."""
    own = isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter)
    return (error.message if own else error.format_message()).replace("\n", " ")
