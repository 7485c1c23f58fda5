"""Check that one host has one spelling."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd.core.host import canonical_host, canonical_host_port, host_port, is_host

NAMES = st.lists(
    st.from_regex(r"[a-z]([a-z0-9-]{0,9}[a-z0-9])?", fullmatch=True), min_size=1, max_size=4
).map(".".join)


@given(st.integers(0, 2**128 - 1), st.booleans(), st.booleans(), st.booleans())
def test_an_ipv6_address_has_one_spelling(number: int, long: bool, capital: bool, brackets: bool) -> None:
    address = IPv6Address(number)
    text = address.exploded if long else str(address)
    text = text.upper() if capital else text
    text = f"[{text}]" if brackets else text
    assert is_host(text)
    known = canonical_host(text)
    assert known == canonical_host(known) == str(address.ipv4_mapped or address)
    assert canonical_host_port(host_port(text, 6443)) == host_port(known, 6443)


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_in_ipv6_is_the_ipv4_address(number: int) -> None:
    address = IPv4Address(number)
    assert canonical_host(f"::ffff:{address}") == canonical_host(str(address)) == str(address)


@given(NAMES, st.booleans(), st.booleans())
def test_a_host_name_has_one_spelling(name: str, capital: bool, dot: bool) -> None:
    text = (name.upper() if capital else name) + "." * dot
    assert is_host(text)
    assert canonical_host(text) == canonical_host(canonical_host(text)) == name
    assert canonical_host_port(f"{text}:6443") == host_port(text, 6443) == f"{name}:6443"


@given(st.integers(0, 2**128 - 1), st.integers(0, 2**128 - 1))
def test_two_addresses_are_equal_exactly_where_they_are_one(one: int, other: int) -> None:
    same = canonical_host(str(IPv6Address(one))) == canonical_host(IPv6Address(other).exploded)
    assert same is (one == other)


@pytest.mark.parametrize(
    "text",
    [
        "fe80::1%eth0",
        "[fe80::1%eth0]",
        "[10.0.0.1]",
        "[leaf1]",
        "[fd00::1",
        "fd00::1]",
        "300.1.1.1",
        "10.1.2",
        "",
        "a b",
    ],
)
def test_an_address_with_a_zone_and_anything_odd_in_brackets_is_no_host(text: str) -> None:
    assert not is_host(text)


@pytest.mark.parametrize("text", ["10.0.0.1", "fd00::1", "[fd00::1]", "leaf1", "leaf1.example."])
def test_an_address_or_a_name_is_a_host(text: str) -> None:
    assert is_host(text)


@pytest.mark.parametrize(
    ("host", "joined"),
    [
        ("fd00:0::1", "[fd00::1]:6443"),
        ("[fd00::1]", "[fd00::1]:6443"),
        ("::ffff:10.0.0.1", "10.0.0.1:6443"),
        ("VIP.", "vip:6443"),
    ],
)
def test_only_an_ipv6_address_has_brackets_before_its_port(host: str, joined: str) -> None:
    assert host_port(host, 6443) == joined


@pytest.mark.parametrize("text", ["", "vip", "fd00::1"])
def test_a_host_without_a_port_stays_a_host(text: str) -> None:
    assert canonical_host_port(text) == text


@given(st.text())
def test_any_text_has_a_spelling(text: str) -> None:
    canonical_host_port(text)
