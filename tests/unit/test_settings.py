"""Check that a settings file is accepted as a whole, or refused with key, file and allowed values."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd import settings
from kubesyncd.core.model import Timing
from kubesyncd.core.setting_range import RANGE, range_of
from kubesyncd.settings import Settings, SettingsError, load, parse
from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = ROOT / "etc" / "kubesyncd" / "kubesyncd.toml"


def refusal(tables: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as raised:
        parse(tables, "k.toml")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("k.toml: ")
    return str(raised.value)


def test_without_a_file_every_key_has_its_default(tmp_path: Path) -> None:
    assert load(tmp_path / "absent.toml") == Settings()


def test_a_file_given_by_option_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file; give an existing one with --config"):
        load(tmp_path / "absent.toml", required=True)


def test_in_an_empty_file_every_key_has_its_default() -> None:
    assert parse({}, "k.toml") == Settings()


def test_every_key_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "k.toml"
    path.write_text(
        """
        [redis]
        url = "unix:///r.sock"
        config_db = 14
        [sockets]
        group = ""
        [kube]
        node_name = "sw1"
        keep_admin_conf = false
        [systemd]
        systemctl = ["sudo", "systemctl"]
        [timing]
        stop_grace_s = 3
        reask_s = 0.5
        [schema]
        names = "sonic"
        [log]
        format = "console"
        level = "debug"
        """
    )
    got = load(path)
    assert (got.redis.url, got.redis.config_db, got.redis.state_db) == ("unix:///r.sock", 14, 6)
    assert (got.kube.node_name, got.kube.keep_admin_conf) == ("sw1", False)
    assert got.systemd.systemctl == ("sudo", "systemctl")
    assert got.timing == Timing(stop_grace_s=3.0, reask_s=0.5)
    assert isinstance(got.timing.stop_grace_s, float)
    assert (got.schema.names, got.log.format, got.log.level, got.sockets.group) == (
        "sonic",
        "console",
        "debug",
        "",
    )


def test_the_defaults_are_the_documented_paths() -> None:
    got = Settings()
    assert got.sockets.host == "/run/kubesyncd/host.sock"
    assert got.sockets.container == "/run/kubesyncd/container/container.sock"
    assert got.paths.state_dir == "/var/lib/kubesyncd"
    assert got.features.always_local == ("database",)
    assert got.kube.node_name == got.kube.node_name.lower()


def test_an_unknown_section_is_named_with_the_allowed_ones() -> None:
    said = refusal({"timings": {}})
    assert "unknown section [timings]" in said
    assert "timing" in said.partition("allowed:")[2]


def test_an_unknown_key_is_named_with_the_allowed_ones() -> None:
    said = refusal({"timing": {"stop_grace": 3}})
    assert "unknown key 'stop_grace' in [timing]" in said
    assert "stop_grace_s" in said.partition("allowed:")[2]


def test_a_section_must_be_a_table() -> None:
    assert refusal({"redis": "here"}) == "k.toml: redis must be a section: [redis]"


@pytest.mark.parametrize(
    ("section", "key", "value", "allowed"),
    [
        ("redis", "url", 5, "a string"),
        ("redis", "config_db", "4", "a whole number from 0 to 1000000"),
        ("redis", "config_db", True, "a whole number"),
        ("redis", "config_db", -1, "a whole number"),
        ("redis", "config_db", 1_000_001, "a whole number"),
        ("redis", "config_db", 4.0, "a whole number"),
        ("kube", "keep_admin_conf", 1, "true or false"),
        ("timing", "audit_s", 0, "a number of seconds from 0.1 to 10000000"),
        ("timing", "audit_s", -1, "seconds from 0.1"),
        ("timing", "audit_s", 0.09, "seconds from 0.1"),
        ("timing", "audit_s", True, "seconds"),
        ("timing", "audit_s", "5", "seconds"),
        ("timing", "audit_s", 10_000_001, "to 10000000"),
        ("timing", "audit_s", 10**400, "to 10000000"),
        ("timing", "audit_s", float("nan"), "seconds"),
        ("timing", "audit_s", float("inf"), "seconds"),
        ("timing", "hook_s_max", 86_401, "a number of seconds from 0.001 to 86400"),
        ("timing", "crash_loop_starts", 0.5, "a whole number of starts from 0 to 1000000"),
        ("timing", "check_failures", 0, "a whole number of failures from 1 to 1000000"),
        ("kube", "ca_file", ["a"], "a string"),
        ("kube", "ignore_preflight_errors", "a", "a list of strings"),
        ("systemd", "systemctl", "systemctl", "a non-empty list of strings"),
        ("systemd", "systemctl", [], "a non-empty list"),
        ("systemd", "systemctl", ["a", 5], "a non-empty list"),
        ("systemd", "systemctl", ["a", ""], "a non-empty list"),
        ("schema", "names", "seed", "'hld', 'sonic'"),
        ("schema", "names", ["hld"], "'hld', 'sonic'"),
        ("log", "level", "trace", "'debug', 'info'"),
    ],
)
def test_an_invalid_value_is_named_with_the_allowed_ones(
    section: str, key: str, value: object, allowed: str
) -> None:
    said = refusal({section: {key: value}})
    assert f"[{section}] {key} = " in said
    assert allowed in said.partition("allowed:")[2]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        (section.name, key.name, value)
        for section in fields(Settings)
        for key in fields(getattr(Settings(), section.name))
        if RANGE in key.metadata
        for value in (range_of(key).least, range_of(key).most)
    ],
)
def test_the_limits_themselves_are_allowed(section: str, key: str, value: float) -> None:
    assert getattr(getattr(parse({section: {key: value}}, "k"), section), key) == value


def test_every_number_has_a_range_and_its_default_is_in_it() -> None:
    for section in fields(Settings):
        values = getattr(Settings(), section.name)
        for key in fields(values):
            value = getattr(values, key.name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                assert value in range_of(key), f"[{section.name}] {key.name}"
                # The unit of a time is a part of its name.
                timed = key.name.endswith(("_s", "_s_max"))
                assert timed == (range_of(key).unit == "seconds"), f"[{section.name}] {key.name}"


def test_a_list_may_be_empty_unless_it_is_a_program() -> None:
    assert parse({"features": {"always_local": []}}, "k").features.always_local == ()
    assert parse({"kube": {"ignore_preflight_errors": []}}, "k").kube.ignore_preflight_errors == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[redis\n", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"[redis]\nurl = " + b"9" * 5000, "not TOML"),
        (b"[redis]\nurl = " + b"[" * 5000, "not TOML"),
        (b"[redis]\nurl = 0x" + b"f" * 5000, "thousands of digits; allowed: a string"),
        (b"[redis]\nconfig_db = " + b"'" + b"x" * 5000 + b"'", r"xxx\.\.\.; allowed: a whole number"),
    ],
)
def test_a_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "k.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        load(path)


def test_a_folder_is_not_a_settings_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read"):
        load(tmp_path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NAMES = st.sampled_from([f.name for f in fields(Settings)]) | st.text(max_size=10)
KEYS = st.sampled_from(
    [f.name for f in fields(Timing)] + [f.name for f in fields(settings.KubeSettings)]
) | st.text(max_size=10)
TABLES = st.dictionaries(
    NAMES, st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=3), max_size=4) | SCALARS, max_size=3
)


@given(TABLES)
def test_any_tables_are_settings_or_a_refusal(tables: dict[str, Any]) -> None:
    try:
        got = parse(tables, "k.toml")
    except SettingsError:
        return
    assert isinstance(got, Settings)
    assert all(
        0 < getattr(got.timing, f.name) <= 10**7 for f in fields(Timing) if f.name != "crash_loop_starts"
    )
    assert all(getattr(got.timing, f.name) in range_of(f) for f in fields(Timing))


@given(st.binary(max_size=200))
def test_any_file_is_settings_or_a_refusal(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    try:
        assert isinstance(load(path), Settings)
    except SettingsError as error:
        assert str(path) in str(error)  # noqa: PT017 - either outcome is right


def test_the_shipped_file_sets_only_defaults() -> None:
    assert load(SHIPPED) == Settings()
