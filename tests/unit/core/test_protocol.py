"""Check that the protocol carries every valid request and reply, and refuses the rest in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.core import protocol
from kubesyncd.core.protocol import BadRequest

ARGUMENT = st.text(st.characters(exclude_characters="\0\n", exclude_categories=["Cs"]), max_size=40)


@given(st.lists(ARGUMENT, min_size=1, max_size=protocol.ARGUMENTS_MAX).filter(lambda a: a[0]))
def test_a_request_arrives_as_it_was_sent(arguments: list[str]) -> None:
    try:
        sent = protocol.encode_request(arguments)
    except BadRequest:
        assert len("\0".join(arguments).encode()) + 3 > protocol.REQUEST_BYTES_MAX
        return
    assert protocol.decode_request(sent) == arguments


def test_a_request_is_what_interfaces_says() -> None:
    assert protocol.encode_request(["stop", "snmp", ""]) == b"1\0stop\0snmp\0\n"
    assert protocol.decode_request(b"1\0id\0snmp\n") == ["id", "snmp"]


@pytest.mark.parametrize("argument", ["a\0b", "a\nb"])
def test_an_argument_that_would_be_two_is_refused_where_it_is_made(argument: str) -> None:
    with pytest.raises(BadRequest, match="NUL or a newline"):
        protocol.encode_request(["stop", argument])


def test_a_request_has_at_most_so_many_bytes() -> None:
    most = protocol.REQUEST_BYTES_MAX - len(b"1\0id\0\n")
    line = protocol.encode_request(["id", "x" * most])
    assert len(line) == protocol.REQUEST_BYTES_MAX == 4096
    assert protocol.decode_request(line) == ["id", "x" * most]
    with pytest.raises(BadRequest, match="4097 bytes"):
        protocol.encode_request(["id", "x" * (most + 1)])
    with pytest.raises(BadRequest, match="longer than 4096 bytes"):
        protocol.decode_request(line[:-1] + b"x\n")


def test_a_request_has_at_most_so_many_arguments() -> None:
    assert len(protocol.decode_request(protocol.encode_request(["x"] * 64))) == 64 == protocol.ARGUMENTS_MAX
    with pytest.raises(BadRequest, match="65 arguments"):
        protocol.decode_request(protocol.encode_request(["x"] * 65))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "no newline"),
        (b"1\0id", "no newline"),
        (b"\n", "version ''"),
        (b"1\n", "no verb"),
        (b"1\0\n", "no verb"),
        (b"1\0\0snmp\n", "no verb"),
        (b"2\0id\0snmp\n", "version '2'; this daemon speaks 1"),
        (b"GET / HTTP/1.1\r\n", "version 'GET / HTTP/1.1"),
        (b"x" * 100 + b"\0id\n", f"version '{'x' * 20}'"),
        (b"1\0id\n1\0id\n", "more than one line"),
        (b"1\0id\n\n", "more than one line"),
        (b"1\0id\0\xff\n", "not UTF-8"),
    ],
)
def test_an_invalid_request_is_reported_in_one_line(line: bytes, said: str) -> None:
    with pytest.raises(BadRequest) as raised:
        protocol.decode_request(line)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=5000))
def test_any_bytes_are_a_request_or_a_refusal(line: bytes) -> None:
    try:
        arguments, said = protocol.decode_request(line), ""
    except BadRequest as refusal:
        arguments, said = [], str(refusal)
    assert bool(arguments and arguments[0]) is not bool(said)
    assert len(arguments) <= protocol.ARGUMENTS_MAX
    assert len(said) < 200


def test_a_reply_is_lines_and_ends_with_its_code() -> None:
    reply = protocol.out("one\ntwo") + protocol.err("bad") + protocol.status("a\n b  c") + protocol.result(75)
    assert reply == b"O one\nO two\nE bad\nS a b c\nR 75\n"
    assert protocol.decode_reply(reply) == ([("O", "one"), ("O", "two"), ("E", "bad"), ("S", "a b c")], 75)


def test_a_busy_daemon_says_why_and_when_to_ask_again() -> None:
    answer = protocol.busy("kubesyncd is busy:\n 64 wait", 7.125)
    assert answer == b"S kubesyncd is busy: 64 wait\nA 7.12\n"
    assert protocol.decode_reply(answer) == ([("S", "kubesyncd is busy: 64 wait"), ("A", "7.12")], None)


def test_only_the_last_line_is_a_code() -> None:
    assert protocol.decode_reply(b"O 5\nR 0\n") == ([("O", "5")], 0)


def test_exit_codes_are_those_that_scripts_know() -> None:
    codes = (
        protocol.EXIT_DONE,
        protocol.EXIT_FAILED,
        protocol.EXIT_USAGE,
        protocol.EXIT_UNAVAILABLE,
        protocol.EXIT_TIMED_OUT,
    )
    assert (*codes, protocol.EXIT_NOT_ALLOWED) == (0, 1, 64, 69, 75, 77)


def test_a_reply_that_was_cut_off_has_no_code() -> None:
    assert protocol.decode_reply(b"") == ([], None)
    assert protocol.decode_reply(b"O one\nR 0") == ([("O", "one")], None)
    assert protocol.decode_reply(b"R 0\nO late\n") == ([], 0)


@pytest.mark.parametrize("code", [0, 1, 255])
def test_an_exit_code_is_one_byte(code: int) -> None:
    assert protocol.decode_reply(protocol.result(code)) == ([], code)


@pytest.mark.parametrize("code", [-1, 256])
def test_what_no_process_can_exit_with_is_a_bug_of_ours(code: int) -> None:
    with pytest.raises(AssertionError):
        protocol.result(code)


@pytest.mark.parametrize(
    "line",
    [
        b"X what\n",
        b"R " + b"9" * 5000 + b"\n",
        b"R 256\n",
        b"R 0001\n",
        b"R -1\n",
        b"R x\n",
        b"R \n",
        "R ²\n".encode(),
        b"\n",
    ],
)
def test_an_invalid_reply_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadRequest) as raised:
        protocol.decode_reply(line)
    assert str(raised.value) == f"unknown reply line {line[:-1][:40]!a}"


def test_a_line_that_is_too_long_is_cut_and_invalid_characters_are_replaced() -> None:
    assert protocol.out("x" * 40000) == b"O " + b"x" * protocol.REPLY_LINE_MAX + b"\n"
    # In bytes: the client gives up on a line that is longer than it can hold.
    assert len(protocol.err("\U0001f6a8" * 40000)) == len(protocol.out("x" * 40000)) < 1 << 16
    assert protocol.err("\udc80") == b"E ?\n"
    assert protocol.decode_reply(b"O \xff\n") == ([("O", "\ufffd")], None)


@given(st.lists(st.tuples(st.sampled_from("OE"), ARGUMENT)), st.integers(0, 255))
def test_every_reply_arrives_as_it_was_sent(lines: list[tuple[str, str]], code: int) -> None:
    encode = {"O": protocol.out, "E": protocol.err}
    data = b"".join(encode[kind](text) for kind, text in lines)
    assert protocol.decode_reply(data + protocol.result(code)) == (lines, code)
