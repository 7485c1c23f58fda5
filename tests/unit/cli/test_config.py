"""Check that `config` checks, explains, confirms and writes a change in one step."""

from __future__ import annotations

import pytest

from kubesyncd.cli.config_feature import consequence
from kubesyncd.cli.feature_settings import FeatureChange, parse_change
from kubesyncd.cli.switch_redis import FeatureFields
from kubesyncd.core import protocol
from kubesyncd.core.model import FailurePolicy, FeatureConfig, Mode, Owner, Row, SystemState
from kubesyncd.core.state import State
from tests.lab.stub_daemon import KUBE_ID, container, feature
from tests.unit.cli.operator import CONFIG_DB, Operator

MASTER = "KUBERNETES_MASTER|SERVER"


# ---- config kube server ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("ip 10.9.8.7", "IP", "10.9.8.7"),
        ("ip fd00::7", "IP", "fd00::7"),
        ("ip kube.example.net", "IP", "kube.example.net"),
        ("port 8443", "port", "8443"),
        ("insecure on", "insecure", "True"),
        ("insecure off", "insecure", "False"),
        ("disable on -y", "disable", "True"),
    ],
)
def test_the_masters_settings_are_written_as_the_design_document_spells_them(
    bare_terminal: Operator, line: str, field: str, value: str
) -> None:
    result = bare_terminal.types(f"config kube server {line}")
    assert result.exit_code == 0, result.output
    assert bare_terminal.configured(MASTER) == {field: value}
    assert result.stdout.startswith(f"{field} {value}\n")


def test_a_change_says_what_was_there_before(bare_terminal: Operator) -> None:
    bare_terminal.configure(MASTER, ip="10.1.1.1")
    assert bare_terminal.types("config kube server ip 10.1.1.2").stdout == "IP 10.1.1.2 (was 10.1.1.1)\n"
    assert bare_terminal.configured(MASTER) == {"ip": "10.1.1.2"}
    for same in ("10.1.1.2", "[::FFFF:10.1.1.2]"):
        assert bare_terminal.types(f"config kube server ip {same}").stdout == "IP is 10.1.1.2 already\n"


@pytest.mark.parametrize("word", ["", "0", "65536", "-1", "6443x", "٤٤٣"])
def test_an_invalid_port_is_refused(bare_terminal: Operator, word: str) -> None:
    result = bare_terminal.runs("config", "kube", "server", "port", word)
    assert result.returncode == 64
    assert bare_terminal.configured(MASTER) == {}


@pytest.mark.parametrize("word", ["10.0.0.1/24", "10.0.0", "300.1.1.1", "a b", "http://x", "-x", "../etc"])
def test_an_invalid_address_is_refused(bare_terminal: Operator, word: str) -> None:
    result = bare_terminal.runs("config", "kube", "server", "ip", "--", word)
    assert result.returncode == 64
    assert (
        f"invalid address or host name {word!a}; type: kubesync config kube server ip ADDRESS"
        in result.stderr
    )
    assert bare_terminal.configured(MASTER) == {}


def test_an_address_with_a_port_is_refused_with_the_command_for_the_port(bare_terminal: Operator) -> None:
    result = bare_terminal.types("config kube server ip 10.1.2.3:8443")
    assert result.exit_code == 64
    assert "; set its port separately: server port 8443; type: " in result.stderr
    assert bare_terminal.configured(MASTER) == {}


def test_an_unverified_master_causes_a_warning(bare_terminal: Operator) -> None:
    assert (
        "warning: the master's certificate is not checked"
        in bare_terminal.types("config kube server insecure on").stdout
    )


def test_disable_is_also_where_the_design_document_has_it(bare_terminal: Operator) -> None:
    assert bare_terminal.types("config kubernetes disable on --yes").exit_code == 0
    assert bare_terminal.configured(MASTER) == {"disable": "True"}


def test_a_setting_is_kept_without_the_daemon_and_this_is_reported(bare_terminal: Operator) -> None:
    bare_terminal.daemon.stop()
    result = bare_terminal.types("config kube server ip 10.9.8.7")
    assert result.exit_code == 0
    assert result.stderr == (
        "note: kubesyncd does not answer; it acts on this once it runs: systemctl start kubesyncd\n"
    )
    assert bare_terminal.configured(MASTER) == {"IP": "10.9.8.7"}


# ---- config kube label ----------------------------------------------------------------------------


def test_a_label_that_reached_the_master_is_applied(bare_terminal: Operator) -> None:
    result = bare_terminal.types("config kube label add rack a7")
    assert (result.exit_code, result.stdout) == (0, "rack=a7: applied\n")
    assert ["label", "rack=a7"] in bare_terminal.daemon.requests


def test_a_dropped_label_is_asked_for_as_such(bare_terminal: Operator) -> None:
    assert bare_terminal.types("config kube label drop rack").stdout == "rack-: applied\n"
    assert ["label", "rack-"] in bare_terminal.daemon.requests


def test_a_feature_s_own_label_is_applied_with_a_note_that_it_follows_the_owner(terminal: Operator) -> None:
    result = terminal.types("config kube label add snmp_enabled true")
    assert (result.exit_code, result.stdout) == (0, "snmp_enabled=true: applied\n")
    assert result.stderr == (
        "note: snmp_enabled follows the feature's owner; set that: kubesync config feature snmp owner kube\n"
    )
    assert terminal.types("config kube label add nosuch_enabled true").stderr == ""


def test_a_queued_label_says_what_it_waits_for_and_that_the_kubelet_is_stopped(
    bare_terminal: Operator,
) -> None:
    bare_terminal.daemon.replies["label"] = protocol.out(
        "queued (the master does not answer; 2 pending)"
    ) + protocol.result(0)
    bare_terminal.daemon.cluster |= {"joined": True, "kubelet_may_run": False}
    result = bare_terminal.types("config kube label add rack a7")
    assert result.stdout == (
        "rack=a7: queued (the master does not answer; 2 pending; the kubelet is stopped until then)\n"
    )
    assert bare_terminal.json("config kube label add rack a7 --json")["outcome"] == "queued"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a/b/c", "x"], "before the / must be a DNS name"),
        (["rack", "two words"], "letters, digits"),
        (["kubernetes.io/x", "y"], "NodeRestriction"),
        (["rack", "x" * 64], "at most 63"),
    ],
)
def test_an_invalid_label_is_refused_without_asking_the_daemon(
    bare_terminal: Operator, words: list[str], reason: str
) -> None:
    result = bare_terminal.runs("config", "kube", "label", "add", *words)
    assert result.returncode == 64
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert bare_terminal.daemon.requests == []


@pytest.mark.parametrize("line", ["add hwsku MINE", "drop worker.sonic/platform", "add kubernetes.io/os x"])
def test_a_label_that_describes_the_switch_is_not_changed_by_hand(bare_terminal: Operator, line: str) -> None:
    result = bare_terminal.types(f"config kube label {line}")
    assert result.exit_code == 64
    assert "describes the" in result.stderr
    assert "use another key" in result.stderr
    assert bare_terminal.daemon.requests == []


def test_a_label_the_daemon_declines_fails_with_its_text_and_code(bare_terminal: Operator) -> None:
    said = "label: this switch has joined no master; set one with `config kube server ip` and join it"
    bare_terminal.daemon.replies["label"] = protocol.err(said) + protocol.result(1)
    result = bare_terminal.types("config kube label add rack a7")
    assert result.exit_code == 1
    assert result.stderr == f"kubesync: {said.removeprefix('label: ')}\n"


# ---- config kube join, reset ----------------------------------------------------------------------


def test_a_join_is_reported_step_by_step(bare_terminal: Operator) -> None:
    steps = protocol.status("fetching admin.conf") + protocol.status("kubeadm join")
    bare_terminal.daemon.replies["join"] = (
        steps + protocol.out("joined 10.1.2.3 as switch1") + protocol.result(0)
    )
    result = bare_terminal.types("config kube join")
    assert result.stdout == "fetching admin.conf\nkubeadm join\njoined 10.1.2.3 as switch1\n"
    assert bare_terminal.types("config kube join -f").exit_code == 0
    assert [r for r in bare_terminal.daemon.requests if r[0] == "join"] == [["join", "0"], ["join", "1"]]


@pytest.mark.parametrize("line", ["config kube reset", "config kube server disable on"])
def test_leaving_lists_what_becomes_of_each_feature_and_asks(terminal: Operator, line: str) -> None:
    before = terminal.configured(MASTER)
    refused = terminal.types(line, answers="n\n")
    assert refused.exit_code == 1
    assert refused.stdout.splitlines() == [
        "This switch leaves its master: every pod on it ends, its Node and the queued labels are deleted.",
        "  lldp: its kube container ends; its local container starts at once, before the node is drained",
        "  telemetry: nothing runs now; its unit is restarted afterwards, which creates a local container where it can",
        "  1 feature from local images: no change",
        "Leave the master? [y/N]: ",
    ]
    assert "nothing was changed; answer y, or add -y, to proceed" in refused.stderr
    unanswered = terminal.types(line)
    assert (unanswered.exit_code, "add -y" in unanswered.stderr) == (64, True), "a script without an answer"
    assert terminal.configured(MASTER) == before
    assert "reset" not in [request[0] for request in terminal.daemon.requests]
    terminal.daemon.replies["reset"] = protocol.result(0)
    assert terminal.types(line, answers="y\n").exit_code == 0
    assert terminal.types(f"{line} -y").exit_code == 0


def test_leaving_promises_no_local_container_that_cannot_run(bare_terminal: Operator) -> None:
    lacking = "no local container exists, and its image docker-snmp:latest does not exist"
    kube = feature("snmp", State.KUBE_RUNNING, "", granted=KUBE_ID, no_way_back=lacking)
    bare_terminal.daemon.features["snmp"] = kube
    assert (
        f"  snmp: its kube container ends; nothing runs afterwards, because {lacking}; see: kubesync explain snmp\n"
    ) in bare_terminal.types("config kube reset", answers="n\n").stdout


def test_leaving_says_that_a_feature_without_fallback_ends(bare_terminal: Operator) -> None:
    kube = feature("snmp", State.KUBE_RUNNING, "", granted=KUBE_ID, containers=[container("kube", KUBE_ID)])
    kube["config"]["fallback"] = False
    bare_terminal.daemon.features["snmp"] = kube
    assert (
        "  snmp: its kube container ends; nothing runs afterwards, because fallback is off; to change that first: "
        "kubesync config feature snmp owner local\n"
    ) in bare_terminal.types("config kube reset", answers="n\n").stdout


def test_leaving_asks_nothing_where_nothing_ends(terminal: Operator) -> None:
    terminal.daemon.cluster |= {"joined": False}
    assert terminal.types("config kube server disable on").exit_code == 0
    terminal.daemon.replies["reset"] = protocol.result(0)
    assert terminal.types("config kube reset").exit_code == 0


def test_a_join_that_fails_says_why(bare_terminal: Operator) -> None:
    bare_terminal.daemon.replies["reset"] = protocol.err(
        "container: the kubelet does not stop; see its journal"
    ) + protocol.result(1)
    result = bare_terminal.types("config kube reset -y")
    assert (result.exit_code, result.stderr) == (1, "kubesync: the kubelet does not stop; see its journal\n")


def test_a_daemon_too_old_to_join_is_reported_as_such(bare_terminal: Operator) -> None:
    result = bare_terminal.types("config kube join")
    assert result.exit_code == 69
    assert result.stderr.startswith("kubesync: this kubesyncd has no verb join; update it")


# ---- config feature -------------------------------------------------------------------------------


def test_all_settings_of_a_feature_are_written_at_once(terminal: Operator) -> None:
    with watching(terminal, "FEATURE|bgp") as changes:
        result = terminal.types("config feature bgp owner kube fallback true failmode 15 policy rollback -y")
        assert result.exit_code == 0, result.output
    assert changes == ["hset"]
    assert terminal.configured("FEATURE|bgp") == {
        "set_owner": "kube",
        "fallback_to_local": "true",
        "kube_failure_detection": "15",
        "failure_policy": "rollback",
        "state": "enabled",
    }


def test_sonics_field_names_are_written_where_they_are_spoken(terminal: Operator) -> None:
    terminal.write_settings(schema="sonic")
    assert terminal.types("config feature bgp fallback false failmode 5 -y").exit_code == 0
    row = terminal.configured("FEATURE|bgp")
    assert (row["no_fallback_to_local"], row["remote_fail_detection"]) == ("true", "5")
    assert not {"fallback_to_local", "kube_failure_detection"} & row.keys(), "the other spelling's are gone"


def test_fallback_in_sonics_names_is_the_absent_field_which_no_daemon_misreads(
    bare_terminal: Operator,
) -> None:
    """ctrmgrd takes any text of no_fallback_to_local for yes, "false" as well."""
    bare_terminal.write_settings(schema="sonic")
    bare_terminal.configure("FEATURE|bgp", state="enabled", no_fallback_to_local="false")
    result = bare_terminal.types("config feature fallback bgp on")
    assert (result.exit_code, result.stdout) == (
        0,
        "bgp: nothing restarts\nbgp: no_fallback_to_local is absent\n",
    )
    assert bare_terminal.configured("FEATURE|bgp") == {"state": "enabled"}
    assert "nothing to change" in bare_terminal.types("config feature fallback bgp on").stdout
    assert bare_terminal.types("config feature fallback bgp off").exit_code == 0
    assert bare_terminal.configured("FEATURE|bgp") == {"state": "enabled", "no_fallback_to_local": "true"}


def test_the_field_names_are_those_of_the_switch_unless_they_are_set(bare_terminal: Operator) -> None:
    version = bare_terminal.folder / "sonic_version.yml"
    more = f'[paths]\nsonic_version = "{version}"\nstate_dir = "{bare_terminal.folder}/state"'
    for wanted, there, field in (
        ("auto", True, "no_fallback_to_local"),
        ("auto", False, "fallback_to_local"),
        ("hld", True, "fallback_to_local"),
        ("sonic", False, "no_fallback_to_local"),
    ):
        version.unlink(missing_ok=True)
        if there:
            version.write_text("build_version: '202411.1'\n")
        bare_terminal.write_settings(schema=wanted, more=more)
        bare_terminal.configure("FEATURE|bgp", state="enabled")
        assert bare_terminal.types("config feature fallback bgp off").exit_code == 0
        assert field in bare_terminal.configured("FEATURE|bgp")
        bare_terminal.types("config kube server ip 10.1.2.3")
        assert ("ip" in bare_terminal.configured("KUBERNETES_MASTER|SERVER")) == field.startswith("no_")
        with bare_terminal.redis.client(CONFIG_DB) as client:
            client.flushdb()


def test_a_field_that_stands_in_another_case_is_not_written_twice(bare_terminal: Operator) -> None:
    bare_terminal.configure("FEATURE|snmp", Set_Owner="local")
    assert bare_terminal.types("config feature snmp owner kube -y").exit_code == 0
    assert bare_terminal.configured("FEATURE|snmp") == {"Set_Owner": "kube"}


def test_what_is_configured_so_already_is_not_written(terminal: Operator) -> None:
    result = terminal.types("config feature snmp owner kube fallback on")
    assert (result.exit_code, result.stdout) == (0, "snmp: nothing to change, already configured this way\n")


def test_a_replacement_is_confirmed_first(terminal: Operator) -> None:
    result = terminal.types("config feature bgp owner kube", answers="y\n")
    assert result.exit_code == 0
    assert "bgp is running locally and will be replaced when kube deploys\nGo on? [y/N]: " in result.stdout
    assert terminal.configured("FEATURE|bgp")["set_owner"] == "kube"


@pytest.mark.parametrize(("answers", "code"), [("n\n", 1), ("\n", 1), (None, 64)])
def test_without_a_yes_nothing_is_written(terminal: Operator, answers: str | None, code: int) -> None:
    result = terminal.types("config feature bgp owner kube", answers=answers)
    assert result.exit_code == code
    assert result.stderr.count("\n") == 1
    assert "-y" in result.stderr
    assert terminal.configured("FEATURE|bgp")["set_owner"] == "local"


def test_a_change_without_a_restart_needs_no_confirmation(terminal: Operator) -> None:
    result = terminal.types("config feature snmp failmode 30")
    assert (result.exit_code, result.stdout) == (
        0,
        "snmp: nothing restarts\nsnmp: kube_failure_detection=30\n",
    )


def test_the_forms_of_sonic_utilities_ask_nothing(terminal: Operator) -> None:
    assert terminal.types("config feature owner bgp kube").exit_code == 0
    assert terminal.types("config feature fallback bgp on").exit_code == 0
    row = terminal.configured("FEATURE|bgp")
    assert (row["set_owner"], row["fallback_to_local"]) == ("kube", "true")


def test_a_service_without_a_row_gets_its_row(bare_terminal: Operator) -> None:
    bare_terminal.unit("gnmi", "is-enabled")
    bare_terminal.unit("otel")
    bare_terminal.unit("stp", "is-active")
    for name in ("gnmi", "otel", "stp"):
        assert bare_terminal.types(f"config feature {name} owner kube -y").exit_code == 0
    assert bare_terminal.configured("FEATURE|gnmi") == {
        "state": "enabled",
        "auto_restart": "enabled",
        "set_owner": "kube",
    }
    assert bare_terminal.configured("FEATURE|otel")["state"] == "disabled"
    assert bare_terminal.configured("FEATURE|stp")["state"] == "enabled"


def test_what_is_neither_row_nor_service_is_refused_with_the_way_to_install_it(
    bare_terminal: Operator,
) -> None:
    result = bare_terminal.types("config feature gnmi owner kube -y")
    assert result.exit_code == 1
    assert "install it first: kubesync config feature install gnmi" in result.stderr
    assert bare_terminal.configured("FEATURE|gnmi") == {}


def test_what_kubesyncd_needs_itself_stays_local(bare_terminal: Operator) -> None:
    bare_terminal.configure("FEATURE|database", state="always_enabled")
    result = bare_terminal.types("config feature database owner kube -y")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "database can only be local" in result.stderr


def test_a_feature_per_asic_is_one_like_others_where_there_is_one_asic(bare_terminal: Operator) -> None:
    bare_terminal.configure("FEATURE|lldp", has_per_asic_scope="True", has_global_scope="True")
    assert bare_terminal.types("config feature lldp owner kube -y").exit_code == 0


def test_a_feature_per_asic_stays_local(bare_terminal: Operator) -> None:
    bare_terminal.has_asics()
    bare_terminal.configure("FEATURE|swss", has_per_asic_scope="True")
    assert "one container per ASIC" in bare_terminal.types("config feature swss owner kube -y").stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("snmp owner", "owner needs a value: local or kube"),
        ("snmp owner docker", "invalid owner 'docker': must be local or kube"),
        ("snmp owner kube owner local", "owner is given twice"),
        ("snmp fallback maybe", "invalid fallback 'maybe': must be true or false"),
        ("snmp failmode -5", "no such option"),
        ("snmp failmode 1.5", "must be whole minutes"),
        ("snmp failmode 99999999", "must be whole minutes"),
        ("snmp policy panic", "invalid policy 'panic': must be alert or switch-to-local or rollback"),
        ("snmp owner kube color red", "'color' is not one of owner, fallback, failmode, policy"),
        ("snmp f 3", "'f' is not one of"),
        ("snmp", "no setting is given"),
        ("../x owner kube", "invalid feature name"),
        ("Snmp owner kube", "invalid feature name"),
        ("owner snmp", "missing argument"),
        ("fallback snmp perhaps", "'perhaps' is not one of"),
    ],
)
def test_an_invalid_feature_command_says_what_to_type(terminal: Operator, words: str, reason: str) -> None:
    before = terminal.configured("FEATURE|snmp")
    result = terminal.types(f"config feature {words} -y" if words != "snmp" else "config feature snmp")
    assert result.exit_code == 64, result.output
    assert reason in result.stderr
    assert "; type: kubesync config feature" in result.stderr
    assert result.stderr.count("\n") == 1
    assert terminal.configured("FEATURE|snmp") == before


def test_settings_are_taken_in_any_order_case_and_shortened() -> None:
    assert parse_change(
        ["FALLBACK", "On", "own", "Kubernetes", "fail", "0", "pol", "alert"]
    ) == FeatureChange(Owner.KUBE, True, 0, FailurePolicy.ALERT)


def stored(owner: str, mode: str, *, up: bool = True, config: FeatureConfig) -> FeatureFields:
    row = Row(SystemState.UP if up else SystemState.DOWN, Owner(owner), Mode(mode))
    return FeatureFields({"set_owner": "x"}, {}, config, row, ())


LOCAL, KUBE = FeatureConfig(), FeatureConfig(set_owner=Owner.KUBE)


@pytest.mark.parametrize(
    ("now", "wish", "sentence", "asks"),
    [
        (stored("local", "none", config=LOCAL), Owner.KUBE, "is running locally and will be replaced", True),
        (stored("none", "none", config=LOCAL, up=False), Owner.KUBE, "is down: nothing restarts", False),
        (stored("kube", "kube_ready", config=KUBE), Owner.LOCAL, "kube container will be stopped", True),
        (stored("none", "kube_ready", config=KUBE), Owner.LOCAL, "local container will be started now", True),
        (stored("local", "none", config=KUBE), Owner.LOCAL, "stays so: nothing restarts", False),
        (stored("local", "kube_pending", config=KUBE), Owner.LOCAL, "stays so: nothing restarts", False),
        (stored("kube", "kube_ready", config=KUBE), Owner.KUBE, "nothing restarts", False),
    ],
)
def test_the_question_says_what_the_new_owner_means(
    now: FeatureFields, wish: Owner, sentence: str, asks: bool
) -> None:
    said, asked = consequence("snmp", now, FeatureChange(owner=wish), joined=True)
    assert sentence in said
    assert asked is asks


def test_a_fallback_that_starts_something_is_asked_about() -> None:
    said, asked = consequence(
        "snmp", stored("none", "kube_ready", config=KUBE), FeatureChange(fallback=True), joined=True
    )
    assert (said, asked) == ("snmp waits for kube; its local container will run until kube deploys", True)


def test_no_question_promises_a_local_container_that_cannot_run() -> None:
    lacking = "no way back (no local container exists, and its image docker-snmp:latest does not exist)"
    for config, change in ((KUBE, FeatureChange(owner=Owner.LOCAL)), (KUBE, FeatureChange(fallback=True))):
        for mode in ("kube_ready", "kube_pending"):
            now = stored("none", mode, config=config)
            said, _ = consequence("snmp", now, change, joined=True, lacking=lacking)
            assert said.startswith(f"snmp has {lacking}: ")
            assert "started now" not in said
            assert "until kube deploys" not in said


def test_owner_local_is_refused_where_the_daemon_says_that_nothing_could_run(bare_terminal: Operator) -> None:
    why = "no local container exists, and its image docker-snmp:latest does not exist"
    bare_terminal.configure("FEATURE|snmp", state="enabled", set_owner="kube")
    bare_terminal.daemon.features["snmp"] = feature("snmp", State.KUBE_RUNNING, "", no_way_back=why)
    refused = bare_terminal.types("config feature owner snmp local")
    assert (refused.exit_code, f"snmp has no way back ({why}): nothing would run" in refused.stderr) == (
        1,
        True,
    )
    assert bare_terminal.types("config feature owner snmp local --force").exit_code == 0
    bare_terminal.configure("FEATURE|snmp", state="enabled", set_owner="kube")
    bare_terminal.daemon.replies["way-back"] = protocol.err(
        "container: unknown verb 'way-back'"
    ) + protocol.result(64)
    assert bare_terminal.types("config feature owner snmp local").exit_code == 0, (
        "an older daemon does not know"
    )


def test_the_question_says_that_a_switch_has_no_master() -> None:
    said, _ = consequence(
        "snmp", stored("local", "none", config=LOCAL), FeatureChange(owner=Owner.KUBE), joined=False
    )
    assert "once this switch has joined a master" in said


class watching:  # noqa: N801
    """The keyspace events on a CONFIG_DB key while the block runs."""

    END = "the block has ended"

    def __init__(self, operator: Operator, key: str) -> None:
        self._client = operator.redis.client(CONFIG_DB)
        self._client.config_set("notify-keyspace-events", "KA")
        self._listener = self._client.pubsub(ignore_subscribe_messages=True)
        self._channel = f"__keyspace@{CONFIG_DB}__:{key}"
        self._seen: list[str] = []

    def __enter__(self) -> list[str]:
        self._listener.subscribe(self._channel)
        self._listener.get_message(timeout=5)
        return self._seen

    def __exit__(self, *_: object) -> None:
        # Redis tells everything in its order: behind this word nothing of the block can come.
        self._client.publish(self._channel, self.END)
        for message in self._listener.listen():
            if message["data"] == self.END:
                break
            self._seen.append(message["data"])
        self._listener.close()
        self._client.close()


def test_a_feature_that_kubernetes_cannot_name_stays_local(bare_terminal: Operator) -> None:
    for name in ("dhcp_relay", "dhcp-relay", "odd_"):
        bare_terminal.configure(f"FEATURE|{name}", state="enabled")
    assert bare_terminal.types("config feature dhcp_relay owner kube -y").exit_code == 0
    refused = bare_terminal.types("config feature dhcp-relay owner kube -y")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "would be dhcp-relay, which is that of dhcp_relay" in refused.stderr
    assert "can only be local" in bare_terminal.types("config feature odd_ owner kube -y").stderr
    assert bare_terminal.types("config feature dhcp_relay owner kube -y").exit_code == 0, "it keeps the name"
    assert bare_terminal.types("config feature dhcp_relay owner local -y").exit_code == 0
    assert bare_terminal.types("config feature dhcp-relay owner kube -y").exit_code == 0
