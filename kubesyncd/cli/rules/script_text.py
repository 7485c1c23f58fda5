"""Find the code of a script: shell lines without comments, messages and printed text; strings and lists in Python.

Pure: no file. It knows as much of both languages as it needs to pass over text that only mentions a command.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINES_MAX = 100_000
LINE_CHARS_MAX = 4_096
CONTINUED_MAX = 50

# Commands and functions whose arguments are text for people.
_MESSAGES = re.compile(
    r"echo|printf|print|pprint|logger|debug|info|warn|warning|error|exception|critical|die|usage|help|log(?:_?\w+)?|"
    r"add_argument|ArgumentParser|option|secho"
)
_KEYWORDS = frozenset(
    {"then", "do", "else", "elif", "if", "while", "until", "!", "sudo", "time", "{", "exec"}
)
_TEMPLATE_COMMENT = re.compile(r"\{#.*?#\}")
_TO_ERRORS = re.compile(r"\d?>&\d")
_HEREDOC = re.compile(r"(?<!<)<<-?\s*(?P<quote>['\"\\]?)(?P<end>\w+)")
_PRINTED = re.compile(r"^\s*(?:sudo\s+)?(?:cat|read|echo|printf|:)\b[^>|]*<<-?[^>|]*$")
_FUNCTION = re.compile(r"^(?:function\s+([\w-]+)|([\w-]+)\s*\(\))")
_JINJA = re.compile(r"\{%-?\s*(?P<tag>if|elif|else|endif)\b(?P<test>[^%]*)%\}")


@dataclass(frozen=True, slots=True)
class Line:
    """Code on one line: its number, its text, the text that a report shows, and what is around it.

    `only_if`: conditions of Jinja; `function`: the function that the line is in.
    """

    number: int
    text: str
    shown: str
    only_if: tuple[str, ...] = ()
    function: str = ""


@dataclass(frozen=True, slots=True)
class Words:
    """A list of words in Python, as subprocess takes them; None stands for a word that is not a constant."""

    number: int
    words: tuple[str | None, ...]


def shell_lines(text: str) -> Iterator[Line]:
    """Yield the lines of a shell script, or of a Jinja template of one, that are code."""
    end, skipped, function = "", False, ""
    conditions: list[str] = []
    for number, raw in _joined(text):
        if end:
            end, skip = ("", True) if raw.strip() == end else (end, skipped)
            if not skip:
                yield Line(number, raw, raw.strip(), tuple(conditions), function)
            continue
        _follow(conditions, raw)
        code = without_comment(_TEMPLATE_COMMENT.sub("", raw))
        if (named := _FUNCTION.match(code)) is not None:
            function = named[1] or named[2]
        elif code.startswith("}"):
            function = ""
        if code.strip():
            yield Line(number, code, raw.strip(), tuple(conditions), function)
        if (found := _HEREDOC.search(code)) is not None:
            end, skipped = found["end"], _PRINTED.match(_TO_ERRORS.sub("", code)) is not None


def _joined(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line with its number; a line that ends with a backslash includes the next one."""
    held, first = "", 0
    for number, line in enumerate(text.split("\n")[:LINES_MAX], 1):
        first = first or number
        short = line[:LINE_CHARS_MAX]
        # A comment is not continued.
        if short.endswith("\\") and not held.lstrip().startswith("#") and len(held) < LINE_CHARS_MAX:
            held += short[:-1] + " "
            continue
        yield first, held + short
        held, first = "", 0
    if held:
        yield first, held


def _follow(conditions: list[str], line: str) -> None:
    """Keep the stack of Jinja conditions; an `else` is the negation of its `if`."""
    for found in _JINJA.finditer(line):
        tag, test = found["tag"], found["test"].strip(" -")
        if tag == "if":
            conditions.append(test)
        elif conditions:
            conditions.pop()
            if tag != "endif":
                conditions.append(test if tag == "elif" else "else")


def without_comment(line: str) -> str:
    """Return a shell line without its comment."""
    quote = ""
    previous = " "
    skip = False
    for at, char in enumerate(line):
        if skip:
            skip = False
        elif char == "\\" and quote != "'":
            skip = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (previous.isspace() or previous in ";|&("):
            return line[:at]
        previous = char
    return line


def is_message(before: str) -> bool:
    """Return whether the command that the text before a word begins with only prints or logs its arguments."""
    for word in before[_scan(before)[0] :].split():
        if word not in _KEYWORDS:
            return _MESSAGES.fullmatch(word.partition("(")[0].rpartition(".")[2].lower()) is not None
    return False


def in_same_string(before: str, after: str) -> str:
    """Return the part of the text after a word that is in the same string of the shell, or all of it."""
    quote = _scan(before)[1]
    if not quote:
        return after
    end = re.search(rf"(?<!\\){quote}", after)
    return after if end is None else after[: end.start()]


def _scan(text: str) -> tuple[int, str]:
    """Return where the last command of a shell text begins, and the quote that is open at its end."""
    starts, quotes = [0], [""]
    skip = False
    for at, char in enumerate(text):
        quote = quotes[-1]
        if skip:
            skip = False
        elif char == "\\" and quote != "'":
            skip = True
        elif quote == "'":
            quotes[-1] = "" if char == "'" else quote
        elif text.startswith("$(", at) or (char == "`" and quote != "`" and "`" not in quotes):
            starts.append(at + (2 if char == "$" else 1))
            quotes.append("`" if char == "`" else "")
        elif (char == "`" or (char == ")" and not quote)) and len(starts) > 1:
            starts.pop()
            quotes.pop()
        elif char == '"' or (char == "'" and not quote):
            quotes[-1] = "" if char == quote else char
        elif char in ";|&({" and quote in ("", "`") and at >= starts[-1]:
            starts[-1] = at + 1
    return starts[-1], quotes[-1]


def python_code(text: str) -> tuple[list[Line], list[Words], list[tuple[int, str | None]]]:
    """Return a Python script's strings, lists of words, and containers asked for by name. Raises ValueError.

    Strings that are printed, logged or documentation are left out.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("not Python 3") from error
    lines = text.split("\n")
    silent = {id(one) for node in ast.walk(tree) for one in _read_by_people(node)}
    strings: list[Line] = []
    words: list[Words] = []
    asked: list[tuple[int, str | None]] = []
    for node in ast.walk(tree):
        if id(node) in silent:
            continue
        match node:
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                words.append(Words(node.lineno, tuple(_constant(one) for one in elements)))
            case ast.JoinedStr(values=values):
                silent.update(id(one) for one in values)
                whole = "".join(_constant(one) or "{}" for one in values)
                strings.append(_string(node.lineno, whole, lines))
            case ast.Constant(value=str(value)):
                strings.append(_string(node.lineno, value, lines))
            case ast.Call(func=ast.Attribute(attr="get", value=ast.Attribute(attr="containers")), args=args):
                asked.append((node.lineno, _constant(args[0]) if args else None))
            case ast.Call(
                func=ast.Attribute(attr="get", value=ast.Name(id="containers" | "ctrs")), args=args
            ):
                asked.append((node.lineno, _constant(args[0]) if args else None))
            case _:
                pass
    return strings, words, asked


def _string(number: int, value: str, lines: Sequence[str]) -> Line:
    shown = lines[number - 1].strip() if number <= len(lines) else ""
    return Line(number, value[:LINE_CHARS_MAX], shown)


def _read_by_people(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what a node contains that is text for people."""
    match node:
        case ast.Expr(value=ast.Constant() as text):
            yield text
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if _MESSAGES.fullmatch(name.lower()):
            yield from (one for part in (*node.args, *node.keywords) for one in ast.walk(part))
        case ast.keyword(arg="help" | "description" | "epilog"):
            yield from ast.walk(node)
        case _:
            pass


def _constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
