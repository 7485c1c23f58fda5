"""Check the pure rules of joining and leaving on every input they can meet."""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kubesyncd.adapters.kubeadm import reason
from kubesyncd.core.model import MasterConfig
from kubesyncd.core.parse import parse_master_config
from kubesyncd.join import credential, plan, progress
from kubesyncd.join.plan import (
    STEP_S_MAX,
    Found,
    Job,
    JobStep,
    Membership,
    Standing,
    due,
    plan_join,
    plan_reset,
)
from kubesyncd.join.progress import JobPhase, Progress, StepReport
from kubesyncd.ports import Refused
from kubesyncd.runtime.x509 import key_hash
from tests.lab.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

HERE = MasterConfig(ip="10.0.0.1")
NONE = MasterConfig()
DISABLED = MasterConfig(ip="10.0.0.1", disable=True)
POISON = MasterConfig(ip="10.0.0.1", problems=("port='x' is no whole number",))
KUBE_JOIN_WAITS_S = 600


def noted(standing: Standing, ip: str = "10.0.0.1") -> Membership:
    return Membership(standing, ip, 6443, "switch1", "admin.conf", 1)


JOINED, ELSEWHERE, LEFT = noted(Standing.JOINED), noted(Standing.JOINED, "10.0.0.2"), noted(Standing.LEFT)
EVERYTHING = [
    Found(*found)
    for found in itertools.product((False, True), (False, True), (None, JOINED, ELSEWHERE, LEFT))
]


@pytest.mark.parametrize("found", EVERYTHING)
def test_without_a_master_nothing_is_due_whatever_is_found(found: Found) -> None:
    assert due(NONE, found)[0] is None


@pytest.mark.parametrize("found", EVERYTHING)
def test_an_unusable_configuration_changes_nothing(found: Found) -> None:
    assert due(POISON, found)[0] is None
    with pytest.raises(Refused, match="port='x'"):
        plan_join(POISON, found, force=True)


@pytest.mark.parametrize("found", EVERYTHING)
def test_a_disabled_master_is_left_exactly_where_there_is_a_credential(found: Found) -> None:
    assert due(DISABLED, found)[0] is (Job.RESET if found.credential else None)
    with pytest.raises(Refused, match="disable off"):
        plan_join(DISABLED, found, force=True)


@pytest.mark.parametrize("found", EVERYTHING)
def test_a_join_is_due_without_a_credential_or_for_another_address_and_not_after_an_operator_s_reset(
    found: Found,
) -> None:
    expected = found.membership is ELSEWHERE if found.credential else found.membership is not LEFT
    assert due(HERE, found)[0] is (Job.JOIN if expected else None)


@pytest.mark.parametrize("found", EVERYTHING)
@pytest.mark.parametrize("force", [False, True])
def test_a_name_that_no_node_can_have_stops_every_join_and_no_leave(found: Found, force: bool) -> None:
    job, why = due(HERE, found, "bad name")
    assert job is None
    assert (why == "bad name") is (due(HERE, found)[0] is Job.JOIN)
    assert due(DISABLED, found, "bad name") == due(DISABLED, found)
    if found.belongs_to(HERE) and not force:
        assert plan_join(HERE, found, force=force, name_problem="bad name").tasks == ()
    else:
        with pytest.raises(Refused, match="bad name"):
            plan_join(HERE, found, force=force, name_problem="bad name")


@pytest.mark.parametrize("found", EVERYTHING)
@pytest.mark.parametrize("force", [False, True])
def test_the_network_is_asked_before_anything_is_torn_down(found: Found, force: bool) -> None:
    steps = [task.step for task in plan_join(HERE, found, force=force).tasks]
    if not steps:
        assert found.belongs_to(HERE)
        assert not force
        return
    assert steps[:2] == [JobStep.FETCH, JobStep.ASK]
    assert steps[-3:] == [JobStep.JOIN, JobStep.RECORD, JobStep.CONFIGURE_KUBELET]
    assert (JobStep.CLEAN in steps) is (found.credential or found.residue)
    assert (JobStep.LEAVE in steps) is found.credential
    if found.credential:
        assert steps[2] is JobStep.TRY
        assert steps.index(JobStep.STOP) < steps.index(JobStep.LEAVE) < steps.index(JobStep.CLEAN)


@pytest.mark.parametrize("found", EVERYTHING)
def test_a_reset_needs_no_master_and_always_forgets(found: Found) -> None:
    *others, last = plan_reset(found).tasks
    assert (last.step, last.may_fail) == (JobStep.FORGET, False)
    assert all(task.may_fail for task in others)


@pytest.mark.parametrize("found", EVERYTHING)
def test_no_job_takes_longer_than_kube_join_waits(found: Found) -> None:
    for planned in (plan_join(HERE, found, force=True), plan_reset(found)):
        steps = (*(task.step for task in planned.tasks), *planned.undo)
        assert sum(STEP_S_MAX[step] for step in steps) < KUBE_JOIN_WAITS_S


def test_a_join_for_what_is_not_configured_any_more_is_outdated_and_a_reset_never_is() -> None:
    assert not plan.outdated(HERE, Job.JOIN, "10.0.0.1:6443")
    assert plan.outdated(HERE, Job.JOIN, "10.0.0.2:6443")
    assert plan.outdated(DISABLED, Job.JOIN, "10.0.0.1:6443")
    assert plan.outdated(NONE, Job.JOIN, "10.0.0.1:6443")
    assert not plan.outdated(NONE, Job.RESET, "10.0.0.1:6443")


@pytest.mark.parametrize(
    ("noted_as", "configured"),
    itertools.permutations(["fd00::1", "FD00:0:0::1", "[fd00::1]"], 2),
)
def test_another_spelling_of_an_address_is_not_another_master(noted_as: str, configured: str) -> None:
    config = parse_master_config({"IP": configured})
    found = Found(credential=True, membership=noted(Standing.JOINED, noted_as))
    assert due(config, found) == (None, "joined")
    assert not plan.outdated(config, Job.JOIN, f"[{noted_as.strip('[]')}]:6443")
    assert not plan_join(config, found, force=False).tasks
    left = Found(membership=noted(Standing.LEFT, noted_as))
    assert due(config, left) == (None, "an operator has reset it; run: config kube join")
    elsewhere = Found(credential=True, membership=noted(Standing.JOINED, "FD00::2"))
    assert due(config, elsewhere) == (Job.JOIN, "the master's address has changed from [fd00::2]:6443")


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        ("10.0.0.1", "10.0.0.1:6443"),
        ("fd00::1", "[fd00::1]:6443"),
        ("[fd00::1]", "[fd00::1]:6443"),
        ("vip", "vip:6443"),
    ],
)
def test_an_address_is_what_a_url_needs(ip: str, expected: str) -> None:
    assert plan.address(MasterConfig(ip=ip)) == expected


# ---- files ---------------------------------------------------------------------------------------


def test_a_note_is_read_as_it_was_written() -> None:
    assert plan.decode_membership(plan.encode_membership(JOINED)) == JOINED


def test_progress_is_read_as_it_was_written() -> None:
    told = (
        Progress(Job.JOIN, "10.0.0.1:6443", force=True, begun_at=7.5)
        .at(JobStep.FETCH)
        .over(StepReport(JobStep.FETCH, True, 0.2, "from https://10.0.0.1/admin.conf"))
        .leaving_over("the node")
        .ended(JobPhase.FAILED, "ask the master: no answer", 9.0)
    )
    assert progress.decode(progress.encode(told)) == told
    assert told.sentence == "ask the master: no answer; left over: the node"


NAMES = st.sampled_from(
    [*progress.Progress.__dataclass_fields__, *plan.Membership.__dataclass_fields__, "detail", "ok", "took_s"]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.sampled_from(["join", "running", "joined"]),
    lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner, min_size=3),
)


@settings(max_examples=200)
@given(st.binary(max_size=200) | TREES.map(lambda tree: json.dumps(tree).encode()))
@pytest.mark.slow("hundreds of nested trees")
def test_an_invalid_file_counts_as_missing(data: bytes) -> None:
    progress.decode(data)
    plan.decode_membership(data)


def test_a_number_beyond_all_limits_makes_the_file_unreadable() -> None:
    assert plan.decode_membership(plan.encode_membership(JOINED).replace(b"6443", b"1e999")) is None
    told = progress.encode(Progress(Job.JOIN, "10.0.0.1:6443", force=True, begun_at=7.5))
    assert progress.decode(told.replace(b"7.5", b"9" * 400)) is None


# ---- credentials ---------------------------------------------------------------------------------

CA = base64.b64encode(b"the CA").decode()
PAIR = {"client-certificate-data": "Y2VydA==", "client-key-data": "a2V5"}


def admin_conf(user: dict[str, Any], cluster: dict[str, Any] | None = None) -> bytes:
    document = {
        "clusters": [
            {"name": "other", "cluster": {"server": "https://10.9.9.9:1"}},
            {
                "name": "c",
                "cluster": cluster or {"server": "https://172.16.1.1:6443", "certificate-authority-data": CA},
            },
        ],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "n"}}],
        "current-context": "x",
        "preferences": {"colors": True},
    }
    return yaml.safe_dump(document).encode()


@pytest.mark.parametrize("user", [PAIR, {"token": "t"}])
def test_of_an_admin_conf_the_credential_is_kept_and_the_address_is_ours(user: dict[str, str]) -> None:
    made = yaml.safe_load(credential.for_master(admin_conf(user), "10.0.0.1:6443", None, "", "it"))
    assert made["clusters"] == [
        {"name": "master", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": CA}}
    ]
    assert made["users"] == [{"name": "switch", "user": user}]


def test_a_document_of_ours_is_told_from_an_operator_s() -> None:
    ours = credential.for_master(admin_conf(PAIR), "10.0.0.1:6443", None, "", "it")
    assert credential.is_ours(ours)
    assert credential.is_ours(ours.replace(b"10.0.0.1", b"10.0.0.2")), "an edit does not change whose it is"
    for theirs in (admin_conf(PAIR), b"", b"[]", b"{}", b"\xff", b"[" * 100_000):
        assert not credential.is_ours(theirs)


@pytest.mark.parametrize(
    "user",
    [
        {"exec": {"command": "/bin/sh", "args": ["-c", "rm -rf /"]}},
        {**PAIR, "exec": {"command": "/bin/sh"}},
        {"auth-provider": {"name": "gcp", "config": {"cmd-path": "/bin/sh"}}},
        {"client-certificate": "/etc/shadow", "client-key": "/etc/shadow"},
        {"tokenFile": "/etc/shadow"},
        {"username": "admin", "password": "x"},
    ],
)
def test_an_admin_conf_that_runs_programs_or_reads_files_is_refused(user: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="must be inline"):
        credential.for_master(admin_conf(user), "10.0.0.1:6443", None, "", "it")


def test_a_ca_that_is_pinned_fills_in_for_a_missing_one_and_without_any_the_fix_is_named() -> None:
    bare = admin_conf(PAIR, {"server": "https://172.16.1.1:6443"})
    made = yaml.safe_load(credential.for_master(bare, "10.0.0.1:6443", b"the CA", "", "it"))
    assert made["clusters"][0]["cluster"]["certificate-authority-data"] == CA
    with pytest.raises(Refused, match=r"set \[kube\] ca_file"):
        credential.for_master(bare, "10.0.0.1:6443", None, "", "it")


def test_of_an_admin_conf_s_authorities_only_the_pinned_one_is_kept(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path / "ours").pem, Authority(tmp_path / "theirs").pem
    pin = key_hash(ours)

    def made(ca: str) -> bytes:
        named = {"server": "https://172.16.1.1:6443", "certificate-authority-data": ca}
        document = credential.for_master(admin_conf(PAIR, named), "10.0.0.1:6443", theirs, pin, "it")
        cluster = yaml.safe_load(document)["clusters"][0]["cluster"]
        return base64.b64decode(cluster["certificate-authority-data"])

    assert made(base64.b64encode(theirs + ours).decode()) == ours
    for wrong in (base64.b64encode(theirs).decode(), ""):
        with pytest.raises(Refused, match="the CA that it gives is not the pinned one"):
            made(wrong)
    for wrong in (CA, "!"):
        with pytest.raises(Refused, match="the CA that it gives cannot be read"):
            made(wrong)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"\xff",
        b"[" * 2000,
        b"a: &a [*a]",
        b"- 1",
        b"current-context: x",
        b"x" * 300_000,
        admin_conf({}),
    ],
)
def test_an_invalid_admin_conf_is_refused_in_a_sentence(document: bytes) -> None:
    with pytest.raises(Refused, match=r"admin\.conf"):
        credential.for_master(document, "10.0.0.1:6443", None, "", "it")


@pytest.mark.parametrize(
    ("version", "group"), [((1, 20), "v1beta2"), ((1, 22), "v1beta3"), ((1, 31), "v1beta3")]
)
def test_a_token_is_written_in_a_form_this_kubeadm_reads(version: tuple[int, int], group: str) -> None:
    made = json.loads(
        credential.from_token("10.0.0.1:6443", "a.b", "sha256:1", "switch1", "/run/cri.sock", version)
    )
    assert made["apiVersion"] == f"kubeadm.k8s.io/{group}"
    assert made["discovery"]["bootstrapToken"] == {
        "apiServerEndpoint": "10.0.0.1:6443", "token": "a.b", "caCertHashes": ["sha256:1"],
    }  # fmt: skip
    assert made["nodeRegistration"] == {"name": "switch1", "criSocket": "/run/cri.sock"}


def test_kubeadm_s_errors_are_found_in_much_that_it_says() -> None:
    said = (
        "W1123 utils.go:69] The recommended value …\n"
        "error execution phase preflight: [preflight] Some fatal errors occurred:\n"
        "\t[ERROR Port-10250]: Port 10250 is in use\n"
        "[preflight] If you know what you are doing, you can make a check non-fatal …\n"
        "To see the stack trace of this error execute with --v=5 or higher\n"
    )
    assert reason(said) == (
        "error execution phase preflight: [preflight] Some fatal errors occurred:; "
        "[ERROR Port-10250]: Port 10250 is in use"
    )
    minded_not = "verification failed: …\nerror: exit status 1\n" + said
    assert reason(minded_not) == reason(said)
    assert reason("it went wrong\n") == "it went wrong"
    assert reason("") == ""


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (
            'could not find a JWS signature in the cluster-info ConfigMap for token ID "abcdef"',
            "kubeadm token create",
        ),
        ("none of the public keys sha256:00 are pinned", "[kube] ca_cert_hash"),
        ('configmaps "kubeadm-config" is forbidden: User "nobody" cannot get', "docs/fleet.md"),
    ],
)
def test_a_credential_error_of_kubeadm_is_reported_with_the_fix(words: str, fix: str) -> None:
    told = reason(f"error execution phase preflight: {words}\n")
    assert words in told
    assert fix in told.partition("; ")[2]
