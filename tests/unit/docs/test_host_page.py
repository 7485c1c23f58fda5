"""Compare docs/host.md with the messages of the code, and each of its sections with the table of its tests."""

from __future__ import annotations

import re

import pytest

from kubesyncd.adapters.redis_refusals import REFUSALS
from kubesyncd.api.connections import WAITING_FOR_ONE_MAX
from kubesyncd.core.conditions import ALERTING, ConditionKind, conditions
from kubesyncd.core.failed_action import ActionKind
from kubesyncd.core.model import SHORT_ID, Mode
from kubesyncd.core.plan_kube import MAY_START
from kubesyncd.features.ledger import LOST, MEANS, MISSING
from tests.paths import CLIENTS, DOCS, ROOT
from tests.unit.core.given import (
    KUBE_CONFIG,
    LOCAL,
    LOCAL_CONFIG,
    NOW,
    TIMING,
    down,
    granted,
    kube,
    local,
    look,
    observed,
    up,
)

PAGE = (DOCS / "host.md").read_text()
ONE_LINE = " ".join(PAGE.split())
SECTIONS = re.findall(r"^## (\d+\. .*)\n((?:(?!^## ).*\n)*)", PAGE, re.MULTILINE)
IMAGE_GONE = "no local container exists, and its image docker-snmp:latest does not exist"
PARTS = ("**You see", "**kubesyncd** ", "**It does not** ", "**Type** ")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def told(kind: ConditionKind) -> str:
    """The text of a condition, of a feature that has each kind on this page."""
    records = (
        (granted(), observed(kube(), no_way_back=IMAGE_GONE)),
        (down(), observed(local(restart_policy="always", by_policy=True))),
        (up(mode=Mode.READY), observed(local())),
    )
    for record, seen in records:
        config = KUBE_CONFIG if kind is ConditionKind.UNASKED_START else LOCAL_CONFIG
        found = conditions("snmp", *look(config, record, seen), TIMING, NOW)
        if text := next((c.text for c in found if c.kind is kind), ""):
            return text
    raise AssertionError(kind)


def test_each_section_has_the_same_four_parts_and_its_tests() -> None:
    assert [int(title.partition(".")[0]) for title, _ in SECTIONS] == list(range(1, 14))
    for title, text in SECTIONS:
        assert [text.count(part) for part in PARTS] == [1] * len(PARTS), title
        assert sorted(PARTS, key=text.index) == list(PARTS), title
    table = (
        (ROOT / "tests" / "PROMISES.md")
        .read_text()
        .partition("**When the host fails**")[2]
        .partition("\n## ")[0]
    )
    rows = re.findall(r"^\| (\d+) ([^|]*) \| `test_", table, re.MULTILINE)
    assert [f"{number}. {name}".lower() for number, name in rows] == [t.lower() for t, _ in SECTIONS]


def test_every_link_to_a_section_of_a_page_leads_there() -> None:
    for page in sorted(DOCS.rglob("*.md")):
        for target, anchor in re.findall(r"\]\(([\w./-]*)#([\w-]+)\)", page.read_text()):
            text = (page.parent / target if target else page).read_text()
            assert anchor in anchors(text), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize(
    "message",
    [
        f"/run/kubesyncd/features.json cannot be written: No space left on device: {MEANS};",
        told(ConditionKind.NO_WAY_BACK),
        told(ConditionKind.RESTART_POLICY).replace(LOCAL[:SHORT_ID], "ID").replace("snmp", "NAME"),
        told(ConditionKind.UNASKED_START).replace(LOCAL[:SHORT_ID], "ID").replace("snmp", "NAME"),
        told(ConditionKind.BY_POLICY).replace(LOCAL[:SHORT_ID], "ID").replace("snmp", "NAME"),
        f"{MISSING}, although this boot is not new; {LOST}",
        MAY_START,
        f"a script; {REFUSALS['BUSY'].fix}",
        f"{WAITING_FOR_ONE_MAX} clients wait for snmp",
    ],
)
def test_messages_on_the_page_are_those_of_the_code(message: str) -> None:
    assert message in ONE_LINE


@pytest.mark.parametrize("word", [word for word in REFUSALS if word.isupper() and word != "WRONGTYPE"])
def test_every_word_of_redis_is_on_the_page(word: str) -> None:
    assert re.search(rf"^\|[^|]*\b{word}\b", PAGE, re.MULTILINE)


def test_every_alert_on_the_page_is_one_of_the_code() -> None:
    index = PAGE.partition("| you see | section |")[2].partition("\n## ")[0]
    named = {
        name
        for line in index.splitlines()
        for name in re.findall(r"`([a-z_]+)`", line.partition("alert")[2].partition("|")[0])
    }
    assert {"ledger", "no_way_back", "socket", "busy", "accept", "ledger_lost"} <= named
    programs = "\n".join(path.read_text() for path in (ROOT / "kubesyncd").rglob("*.py"))
    known = {*(kind.value for kind in (*ActionKind, *ALERTING))}
    assert {name for name in named if name not in known and f'"{name}"' not in programs} == set()


@pytest.mark.parametrize(
    "said",
    [
        "kubesyncd runs, but its socket",
        "is gone or closed",
        "run systemctl restart kubesyncd",
        "it is not known whether kubesyncd runs",
        "so it may not be done",
        "see systemctl status kubesyncd, then ask again",
        "kubesyncd is not running",
        "run systemctl start kubesyncd",
        "standard output cannot be written",
    ],
)
def test_the_words_of_the_clients_are_on_the_page(said: str) -> None:
    assert said in (CLIENTS / "client.py").read_text()
    assert said in ONE_LINE
