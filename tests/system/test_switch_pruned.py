"""Check a switch whose local container and image are removed while Kubernetes runs the feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.lab.switch import Switch

IMAGE = "docker-snmp:latest"
NO_WAY_BACK = f"no way back: no local container exists, and its image {IMAGE} does not exist"
VIEWS = (
    ("explain", "snmp"),
    ("show", "feature", "snmp"),
    ("show", "feature"),
    ("doctor",),
    ("watch", "snmp"),
)


def told(switch: Switch, *command: str) -> bool:
    """Whether a command prints it, in however many lines."""
    return NO_WAY_BACK in " ".join(switch.prints(*command).split())


def why(switch: Switch) -> str:
    """The reason of the feature's state; empty until the daemon has observed it."""
    return str(switch.shown("snmp").get("why", ""))


def restarts(switch: Switch) -> list[str]:
    return [call for call in switch.units.calls if call.startswith("restart")]


def test_no_way_back_is_told_at_once_and_no_unit_is_restarted_for_it(switch: Switch) -> None:
    """`docker system prune -af` removes both; the pod's end is waited out, and the image's return is a fallback."""
    switch.images.make(IMAGE)
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    switch.add_service("snmp", image=IMAGE)
    switch.units.call("start", "snmp.service")
    switch.until_up("snmp", "local")
    first = switch.run_kube("snmp")
    switch.until_row("snmp", current_owner="kube", docker_id=first)
    assert switch.log("no_way_back", alert=True) == []

    switch.docker.remove("snmp")
    switch.docker.remove_image(IMAGE)
    for view in VIEWS:
        switch.wait_for(lambda view=view: told(switch, *view), f"{view} tells it")  # type: ignore[misc]
    assert len(switch.log("no_way_back", alert=True)) == 1
    refused = switch.kubesync("config", "feature", "owner", "snmp", "local")
    assert refused.returncode == 1
    assert (
        f"snmp has no way back (no local container exists, and its image {IMAGE} does not exist)"
        in refused.stderr
    )
    # Another program writes it all the same.
    switch.config("snmp", set_owner="local")
    switch.wait_for(lambda: "the kube container is kept" in why(switch), "it is kept")
    switch.config("snmp", set_owner="kube")
    switch.wait_for(lambda: "as configured" in why(switch), "and is as configured")

    switch.docker.remove(first)
    switch.wait_for(lambda: "so nothing can fall back" in why(switch), "no fallback is promised")
    assert (switch.state("snmp"), switch.row("snmp")["system_state"]) == ("KUBE_READY", "up")
    switch.daemon.restart()
    switch.wait_for(lambda: "so nothing can fall back" in why(switch), "nor after a restart")
    second = switch.run_kube("snmp", 1)
    switch.until_row("snmp", system_state="up", current_owner="kube", docker_id=second)
    assert switch.running("snmp") == [second]
    assert restarts(switch) == []

    switch.images.make(IMAGE)
    switch.wait_for(lambda: not any(told(switch, *view) for view in VIEWS), "the image's return ends it")
    switch.docker.remove(second)
    switch.until_state("snmp", "LOCAL")
    switch.until_up("snmp", "local")
    assert len(restarts(switch)) == 1


def test_a_local_container_that_does_not_start_is_no_way_back(switch: Switch) -> None:
    switch.config("snmp", set_owner="kube", fallback_to_local="true")
    broken = switch.create_local("snmp", command=["/no/such/program"])
    switch.done("start", "snmp")
    switch.until_state("snmp", "KUBE_READY")
    kube = switch.run_kube("snmp")
    switch.until_row("snmp", current_owner="kube", docker_id=kube)
    switch.wait_for(
        lambda: "no way back: its local container does not start" in switch.prints("explain", "snmp")
    )
    refused = switch.kubesync("config", "feature", "owner", "snmp", "local")
    assert (refused.returncode, "does not start" in refused.stderr) == (1, True)
    switch.config("snmp", set_owner="local")
    switch.wait_for(lambda: "the kube container is kept" in why(switch), "it is kept")
    switch.daemon.restart()
    switch.wait_for(lambda: "the kube container is kept" in why(switch), "over a restart")
    assert switch.running("snmp") == [kube]

    switch.docker.remove(broken)
    local = switch.create_local("snmp")
    switch.until_state("snmp", "LOCAL")
    switch.wait_for(lambda: switch.running("snmp") == [local], "the new one has taken over")
