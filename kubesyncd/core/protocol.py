"""Encode and decode the socket protocol between client and daemon, without I/O.

A request is UTF-8 arguments joined by NUL, the first one the protocol version, ended by a newline,
at most `REQUEST_BYTES_MAX` bytes in all. The reply is lines: `O text` (standard output), `E text`
(standard error), `S text` (status), and last `R code`. An end of stream before `R` means *ask again*,
never *failed*; `A seconds` before it says after how long, and that the last status names a limit of the
daemon's. Plain enough for a POSIX shell's `read`.
"""

from __future__ import annotations

VERSION = "1"
REQUEST_BYTES_MAX = 4096
ARGUMENTS_MAX = 64
# An argument of `cluster`: prove that the daemon's files can be written.
CHECK_FILES = "check-files"
# Half of the clients' limit; a feature with all its history and containers needs a fifth of it.
REPLY_LINE_MAX = 1 << 15

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 64
EXIT_UNAVAILABLE = 69
EXIT_TIMED_OUT = 75
EXIT_NOT_ALLOWED = 77


class BadRequest(Exception):
    """Invalid request; the message says what to send instead."""


def encode_request(arguments: list[str]) -> bytes:
    """Encode a request as bytes. Raises BadRequest where the arguments cannot be encoded."""
    if any("\0" in a or "\n" in a for a in arguments):
        raise BadRequest("an argument holds a NUL or a newline; leave it out")
    line = "\0".join([VERSION, *arguments]).encode() + b"\n"
    if len(line) > REQUEST_BYTES_MAX:
        raise BadRequest(f"the request has {len(line)} bytes; at most {REQUEST_BYTES_MAX} are allowed")
    return line


def decode_request(line: bytes) -> list[str]:
    """Decode the arguments of one whole request line, without the version. Raises BadRequest."""
    if len(line) > REQUEST_BYTES_MAX:
        raise BadRequest(f"the request is longer than {REQUEST_BYTES_MAX} bytes; send a shorter one")
    if not line.endswith(b"\n"):
        raise BadRequest("the request has no newline at its end; end it with one")
    if b"\n" in line[:-1]:
        raise BadRequest("the request has more than one line; send one request per connection")
    try:
        version, *arguments = line[:-1].decode().split("\0")
    except UnicodeDecodeError:
        raise BadRequest("the request is not UTF-8; send UTF-8 arguments joined by NUL") from None
    if version != VERSION:
        raise BadRequest(f"unknown protocol version {version[:20]!a}; this daemon speaks {VERSION}")
    if not arguments or not arguments[0]:
        raise BadRequest("the request names no verb; send version, verb and its arguments")
    if len(arguments) > ARGUMENTS_MAX:
        raise BadRequest(f"the request has {len(arguments)} arguments; at most {ARGUMENTS_MAX} are allowed")
    return arguments


def out(text: str) -> bytes:
    """Encode `text` as lines for the client's standard output."""
    return _lines("O", text)


def err(text: str) -> bytes:
    """Encode `text` as lines for the client's standard error."""
    return _lines("E", text)


def status(text: str) -> bytes:
    """Encode `text` as one status line (systemd shows it)."""
    return _lines("S", " ".join(text.split()))


def busy(text: str, again_s: float) -> bytes:
    """Encode the answer of a daemon at its limits, to which no result follows: why, and when to ask again."""
    return status(text) + _lines("A", f"{again_s:.3g}")


def result(code: int) -> bytes:
    """Encode the last line: the client's exit code, 0 to 255."""
    assert 0 <= code <= 255, code
    return b"R %d\n" % code


def _lines(kind: str, text: str) -> bytes:
    lines = (line.encode(errors="replace")[:REPLY_LINE_MAX] for line in text.split("\n"))
    return b"".join(b"%s %s\n" % (kind.encode(), line) for line in lines)


def decode_reply(data: bytes) -> tuple[list[tuple[str, str]], int | None]:
    """Decode the complete lines of a reply as (kind, text), and the code once `R` has arrived. Raises BadRequest."""
    replies: list[tuple[str, str]] = []
    for raw in data.split(b"\n")[:-1]:
        kind, _, text = raw.decode(errors="replace").partition(" ")
        if kind == "R" and text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= 255:
            return replies, int(text)
        if kind not in ("O", "E", "S", "A"):
            raise BadRequest(f"unknown reply line {raw[:40]!a}")
        replies.append((kind, text))
    return replies, None
