"""Check that a settings file is accepted as a whole, or refused with key, file and allowed values."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubesyncd import settings
from kubesyncd.core.model import Timing
from kubesyncd.core.setting_range import RANGE, range_of
from kubesyncd.core.setting_rules import RULES
from kubesyncd.settings import CheckedSettings, Settings, SettingsError, load
from tests.paths import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SHIPPED = ROOT / "etc" / "kubesyncd" / "kubesyncd.toml"


def check(tables: dict[str, Any]) -> CheckedSettings:
    return settings.check(tables, "k.toml")


def parse(tables: dict[str, Any]) -> Settings:
    return check(tables).valid()


def refusal(tables: dict[str, Any]) -> str:
    (problem,) = check(tables).problems
    assert "\n" not in problem
    assert problem.startswith("k.toml: ")
    return problem


def test_without_a_file_every_key_has_its_default(tmp_path: Path) -> None:
    assert load(tmp_path / "absent.toml") == Settings()


def test_a_file_given_by_option_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file; give an existing one with --config"):
        load(tmp_path / "absent.toml", required=True)


def test_in_an_empty_file_every_key_has_its_default() -> None:
    assert parse({}) == Settings()


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
    assert got.kube.node_name == "", "the host's name at the moment of use"


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
        ("redis", "url", 5, "unix:///PATH, redis://HOST:PORT or rediss://HOST:PORT, or empty"),
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
        ("timing", "crash_loop_starts", 0.5, "a whole number of starts from 0 to 64"),
        ("timing", "crash_loop_starts", 65, "a whole number of starts from 0 to 64"),
        ("timing", "check_failures", 0, "a whole number of failures from 1 to 1000000"),
        ("kube", "ca_file", ["a"], "an absolute path, or empty"),
        ("kube", "node_name", 5, "a string"),
        ("kube", "ignore_preflight_errors", "a", "a list of strings"),
        ("systemd", "systemctl", "systemctl", "a non-empty list of strings"),
        ("systemd", "systemctl", [], "a non-empty list"),
        ("systemd", "systemctl", ["a", 5], "a non-empty list"),
        ("systemd", "systemctl", ["a", ""], "a non-empty list"),
        ("schema", "names", "seed", "'auto', 'hld', 'sonic'"),
        ("schema", "names", ["hld"], "'auto', 'hld', 'sonic'"),
        ("log", "level", "trace", "'debug', 'info'"),
    ],
)
def test_an_invalid_value_is_named_with_the_allowed_ones(
    section: str, key: str, value: object, allowed: str
) -> None:
    said = refusal({section: {key: value}})
    assert f"[{section}] {key} = " in said
    assert allowed in said.partition("allowed:")[2]


TEXTS: dict[tuple[str, str], tuple[list[str], list[str]]] = {
    ("redis", "url"): (
        ["", "unix:///r.sock", "unix:///r.sock?db=4", "redis://10.0.0.1:6379/4", "redis://:secret@[fd00::1]", "rediss://r",
         "redis://r:65535", "redis://[fd00::1]:1/4?username=u&password=p&db=3"],
        ["localhost", "gopher:x", "unix://r.sock", "redis://r:port/4", "redis://r:0", "redis://r/x", "unix:///r?db=x",
         "redis://r?timeout=5", "redis://a b", "redis://[", "unix:///r#x", "redis://r:65536", "redis://[10.0.0.1]",
         "redis://[:]", "redis://[]", "redis://[fe80::1%eth0]"],
    ),
    ("docker", "url"): (
        ["unix:///d.sock", "/d.sock", f"unix:///{'d' * 106}"],
        ["", "tcp://10.0.0.1:2375", "docker.sock", "unix://d.sock", "unix:///d/", f"unix:///{'d' * 107}"],
    ),
    ("sockets", "host"): (
        ["/run/host.sock", f"/{'h' * 106}"],
        ["", "host.sock", "/run/", "/run/\n.sock", f"/{'h' * 107}", f"/{'é' * 54}"],
    ),
    ("kube", "admin_conf_url"): (
        ["https://{ip}/admin.conf", "https://{ip}:{port}/a", "https://files.example/a", "https://[fd00::1]:{port}/{ip}"],
        ["", "http://{ip}/a", "https://{host}/a", "https://{ip/a", "https://{}/a", "https://{ip.x}/a",
         "https://[{ip}]/a", "https://{ip}/{node", "https://{ip}/node}"],
    ),
    ("kube", "ca_cert_hash"): (["", f"sha256:{'0' * 64}"], ["sha256:0", "0" * 64]),
    ("kube", "cri_socket"): (["", "unix:///run/containerd.sock"], ["tcp://h:1"]),
    ("packages", "url"): (
        ["", "https://h/packages.json", "https://h:8443/a/b"],
        ["http://h/x", "ftp://h/x", "https://", "https:///x", "/etc/x", "https://u:p@h/x", "https://[/", "https://h:x/"],
    ),
    ("packages", "pubkey"): (
        ["", base64.b64encode(b"Ed" + b"\0" * 40).decode()],
        ["x", "RWQ", base64.b64encode(b"ED" + b"\0" * 40).decode(), "é" * 56],
    ),
    ("packages", "unit"): (["a.service", "a@b.service"], ["", "a", "a b.service", "../a.service"]),
    ("paths", "state_dir"): (["/a", "/"], ["", "a", "./a"]),
}  # fmt: skip


@pytest.mark.parametrize(("section", "key"), TEXTS)
def test_a_text_must_have_the_form_that_its_reader_can_use(section: str, key: str) -> None:
    good, bad = TEXTS[section, key]
    for text in good:
        assert getattr(getattr(parse({section: {key: text}}), section), key) == text
    for text in bad:
        assert f"[{section}] {key} = " in refusal({section: {key: text}}), text


@pytest.mark.parametrize(
    ("section", "key", "allowed"),
    [
        ("docker", "url", "unix:///PATH"),
        ("kube", "cri_socket", "unix:///PATH, or empty"),
        ("sockets", "host", "an absolute path of at most 107 bytes"),
        ("packages", "url", "https://HOST/FILE; only https is allowed, or empty"),
        ("packages", "unit", "the name of a unit, NAME.service"),
    ],
)
def test_a_refused_text_is_told_what_is_allowed_and_whether_it_may_be_empty(
    section: str, key: str, allowed: str
) -> None:
    assert refusal({section: {key: "\n"}}).endswith(f"; allowed: {allowed}")


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("redis", "url", "redis://:hunter2@r:port/4", "'redis://***@r:port/4'"),
        ("redis", "url", "redis://u:hunter2 @r", "'redis://***@r'"),
        ("redis", "url", "u:hunter2@r:6379", "'***@r:6379'"),
        ("redis", "url", "redis://r?timeout=5&password=hunter2", "'redis://r?***'"),
        ("redis", "url", f"redis://:hunter2{'x' * 200}@", "'redis://***@'"),
        ("redis", "url", ["redis://:hunter2@r"], "***"),
        ("redis", "url", {"a": ["redis://:hunter2@r"]}, "***"),
        ("redis", "database_config", "redis://:hunter2@r", "'redis://***@r'"),
        ("redis", "password_file", "hunter2", "'***'"),
        ("redis", "password_file", 2222, "***"),
        ("kube", "bootstrap_token_file", "abcdef.hunter2", "'***'"),
        ("kube", "client_key", "-----BEGIN hunter2", "'***'"),
        ("kube", "admin_conf_url", "https://u:hunter2@{ip}/admin.conf", "'https://***@{ip}/admin.conf'"),
        ("kube", "admin_conf_url", "http://{ip}/a?token=hunter2", "'http://{ip}/a?***'"),
        ("kube", "node_name", ["https://u:hunter2@h/x"], "***"),
        ("docker", "url", "tcp://u:hunter2@10.0.0.1:2375", "'tcp://***@10.0.0.1:2375'"),
        ("packages", "url", "https://u:hunter2@h/x", "'https://***@h/x'"),
        ("packages", "unit", "https://u:hunter2@h/x", "'https://***@h/x'"),
        ("features", "always_local", ["bgp@0", "Bgp@1"], "['bgp@0', 'Bgp@1']"),
    ],
)
def test_a_refused_value_is_shown_without_its_password(
    section: str, key: str, value: object, said: str
) -> None:
    assert refusal({section: {key: value}}).startswith(f"k.toml: [{section}] {key} = {said}; allowed: ")


def test_an_address_in_place_of_a_name_is_shown_without_its_password() -> None:
    assert "unknown key 'redis://***@r' in [redis]" in refusal({"redis": {"redis://:hunter2@r": 1}})
    assert "unknown section [redis://***@r];" in refusal({"redis://:hunter2@r": 1})


def test_a_list_of_names_has_valid_names() -> None:
    assert parse({"kube": {"namespaces": ["a", "b-1"]}}).kube.namespaces == ("a", "b-1")
    for wrong in ([], ["Sonic"], ["-a"], ["a_b"], ["a" * 64]):
        assert "a non-empty list of namespaces" in refusal({"kube": {"namespaces": wrong}})
    assert "a list of names of features" in refusal({"features": {"always_local": ["database", "../x"]}})


BROKEN: list[tuple[str, dict[str, Any]]] = [
    ("redis", {"config_db": 6}),
    ("sockets", {"container": "/run/kubesyncd/container.sock"}),
    ("sockets", {"container": "/run/kubesyncd//container.sock"}),
    ("sockets", {"container": "/c.sock"}),
    ("sockets", {"host": "/run/./kubesyncd//container/a/host.sock"}),
    ("kube", {"bootstrap_token_file": "/token"}),
    ("kube", {"client_certificate": "/c.pem", "client_key": "/c.key"}),
    ("kube", {"client_certificate": "/c.pem", "ca_file": "/ca.pem"}),
    ("kube", {"join_retry_s": 601}),
    ("timing", {"handover_delay_s": 3601}),
    ("timing", {"backoff_s_max": 0.7}),
    ("timing", {"verb_s_max": 20}),
    ("timing", {"kubelet_stop_s": 70}),
    ("timing", {"kube_stop_grace_s": 70}),
    ("timing", {"stop_grace_s": 85}),
]


@pytest.mark.parametrize(("section", "keys"), BROKEN)
def test_a_combination_that_can_never_work_is_refused_with_all_its_keys(
    section: str, keys: dict[str, Any]
) -> None:
    found = check({section: keys})
    assert found.settings == Settings(), "the defaults are used instead"
    assert found.problems
    for problem in found.problems:
        (rule,) = (rule for rule in RULES if rule.section == section and problem.endswith(rule.says))
        assert all(f"{key} = " in problem for key in rule.keys), problem
        assert keys.keys() & set(rule.keys)


@pytest.mark.parametrize(
    ("section", "keys"),
    [
        ("kube", {"bootstrap_token_file": "/token", "ca_cert_hash": f"sha256:{'0' * 64}"}),
        ("kube", {"client_certificate": "/c.pem", "client_key": "/c.key", "ca_file": "/ca.pem"}),
        (
            "kube",
            {
                "client_certificate": "/c.pem",
                "client_key": "/c.key",
                "ca_cert_hash": f"sha256:{'0' * 64}",
            },
        ),
        (
            "kube",
            {
                "bootstrap_token_file": "/token",
                "ca_cert_hash": f"sha256:{'0' * 64}",
                "client_certificate": "/c.pem",
            },
        ),
        ("kube", {"join_retry_s": 30, "join_retry_s_max": 30}),
        ("timing", {"backoff_s": 5, "backoff_s_max": 5}),
        ("sockets", {"host": "/run/kubesyncd/container2/host.sock"}),
        ("sockets", {"container": "/run/kubesyncd/host.sock.d/container.sock"}),
    ],
)
def test_a_combination_that_can_work_is_accepted(section: str, keys: dict[str, Any]) -> None:
    assert check({section: keys}).problems == ()


def test_every_rule_about_combinations_holds_for_the_defaults_and_has_an_example() -> None:
    assert all(rule.holds(getattr(Settings(), rule.section)) for rule in RULES)
    told = [problem for section, keys in BROKEN for problem in check({section: keys}).problems]
    assert all(any(problem.endswith(rule.says) for problem in told) for rule in RULES)


def test_all_errors_are_told_at_once_and_what_is_left_is_used() -> None:
    found = check(
        {
            "redis": {"url": "here", "config_db": 14},
            "docker": "there",
            "timing": {"audit": 1, "backoff_s": 60, "backoff_s_max": 40, "stop_grace_s": 3},
            "loging": {},
        }
    )
    assert [problem.removeprefix("k.toml: ").partition(";")[0] for problem in found.problems] == [
        "[redis] url = 'here'",
        "docker must be a section: [docker]",
        "unknown key 'audit' in [timing]",
        "unknown section [loging]",
        "[timing] backoff_s = 60, backoff_s_max = 40",
    ]
    assert found.settings == Settings(
        redis=settings.RedisSettings(config_db=14), timing=Timing(stop_grace_s=3.0)
    )
    with pytest.raises(SettingsError, match=r"url = 'here'.* \(4 more: kubesyncd --check\)"):
        found.valid()


def test_a_key_with_an_error_of_its_own_is_told_once() -> None:
    assert "a number of seconds" in refusal({"timing": {"backoff_s": "x", "backoff_s_max": 0.5}})


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
    found = check({section: {key: value}})
    if found.problems:
        assert all(any(problem.endswith(rule.says) for rule in RULES) for problem in found.problems)
    else:
        assert getattr(getattr(found.settings, section), key) == value


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
    assert parse({"features": {"always_local": []}}).features.always_local == ()
    assert parse({"kube": {"ignore_preflight_errors": []}}).kube.ignore_preflight_errors == ()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[redis\n", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"[redis]\nurl = " + b"9" * 5000, "not TOML"),
        (b"[redis]\nurl = " + b"[" * 5000, "not TOML"),
        (b"[redis]\nurl = 0x" + b"f" * 5000, "thousands of digits; allowed: unix:///PATH"),
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
def test_of_any_tables_all_that_can_be_used_is_used(tables: dict[str, Any]) -> None:
    got = check(tables).settings
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
