"""Give each test a virtual switch of its own, over the lab's engines and the real ones.

`switches` makes switches without a master, `kube_switches` with one; both run a test twice, `lab` and `real`.
Whatever a test did, its switches are closed, no container ever broke promise S1, and the log has no traceback.
`tests/conftest.py` makes these fixtures known to every test.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.engines import LabDockerProcess, LabKubeProcess
from tests.lab.kube_client import NODES, PODS
from tests.lab.places import remove
from tests.lab.switch import Switch
from tests.system.switch_kube import RealMaster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.engines import Docker, Kube

    MakeSwitch = Callable[..., Switch]

PODS_S_MAX = 300.0


@pytest.fixture(scope="session")
def lab_docker() -> Iterator[LabDockerProcess]:
    """The lab's engine, a process of its own; a test that stops it starts it again."""
    yield from _lab_docker()


@pytest.fixture
def own_lab_docker() -> Iterator[LabDockerProcess]:
    """A lab's engine of the test's own: a daemon reads in the shared one's events what other tests have run."""
    yield from _lab_docker()


def _lab_docker() -> Iterator[LabDockerProcess]:
    folder = Path(tempfile.mkdtemp(prefix="kl-"))
    engine = LabDockerProcess(folder)
    engine.start()
    yield engine
    engine.stop()
    remove(folder)


@pytest.fixture(scope="session")
def lab_kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabKubeProcess]:
    """The lab's API server, a process of its own."""
    kube = LabKubeProcess(tmp_path_factory.mktemp("kube"))
    kube.start()
    yield kube
    kube.stop()


@pytest.fixture(
    params=[
        pytest.param("lab", marks=pytest.mark.twin),
        pytest.param("real", marks=pytest.mark.real("docker")),
    ]
)
def engine(request: pytest.FixtureRequest) -> Docker:
    """A Docker engine that answers."""
    docker: Docker = request.getfixturevalue("lab_docker" if request.param == "lab" else "real_docker")
    return docker


@pytest.fixture
def new_switch() -> Iterator[MakeSwitch]:
    """`new_switch(docker, **options)` powers a switch on; arguments as for `Switch`."""
    with ExitStack() as stack:
        yield lambda *engines, **options: _powered(stack, Switch(*engines, **options))


@pytest.fixture
def switches(engine: Docker, new_switch: MakeSwitch) -> MakeSwitch:
    """`switches(**options)` powers a switch without a master on."""
    return partial(new_switch, engine)


@pytest.fixture
def switch(switches: MakeSwitch) -> Switch:
    """A switch without a master."""
    return switches()


@pytest.fixture(
    params=[
        pytest.param("lab", marks=pytest.mark.twin),
        pytest.param("real", marks=pytest.mark.real("kubelet")),
    ]
)
def kube_switches(request: pytest.FixtureRequest) -> Iterator[MakeSwitch]:
    """`kube_switches(**options)` powers a switch on that has a master, but has not been told so: `join()`."""
    docker: Docker
    kube: Kube
    with ExitStack() as stack:
        if request.param == "lab":
            docker, kube = request.getfixturevalue("lab_docker"), request.getfixturevalue("lab_kube")
        else:
            real = request.getfixturevalue("kubelet_real")
            docker, kube = real.docker, RealMaster(real.cluster)
            # A test before this one may have ended it.
            real.cluster.start_kubelet(real.docker_socket)
        yield lambda **options: _powered(stack, Switch(docker, kube, **options))


@pytest.fixture
def lab_kube_switches(lab_docker: LabDockerProcess, lab_kube: LabKubeProcess) -> Iterator[MakeSwitch]:
    """As `kube_switches`, on the lab's engines alone: for what would take minutes on the real ones."""
    with ExitStack() as stack:
        yield lambda **options: _powered(stack, Switch(lab_docker, lab_kube, **options))


@pytest.fixture
def lab_kube_switch(lab_kube_switches: MakeSwitch) -> Switch:
    """As `kube_switch`, on the lab's engines alone."""
    switch = lab_kube_switches()
    joined(switch)
    return switch


@pytest.fixture(scope="module")
def sonic_switch(lab_docker: LabDockerProcess, lab_kube: LabKubeProcess) -> Iterator[Switch]:
    """A joined switch on the lab's engines with SONiC's field names: the tests of a module share it.

    Each test has a feature of its own. `fallback_after_s` is short, as ctrmgrd's tests set it. The master always
    answers, and commands wait for that.
    """
    settings = {"schema": {"names": "sonic"}}
    timing = {"fallback_after_s": 2.0, "label_wait_s": 60.0}
    with ExitStack() as stack:
        switch = _powered(stack, Switch(lab_docker, lab_kube, settings=settings, timing=timing))
        joined(switch)
        yield switch


@pytest.fixture
def kube_switch(kube_switches: MakeSwitch) -> Switch:
    """A switch that has joined its master, and its kubelet runs."""
    switch = kube_switches()
    joined(switch)
    return switch


def joined(switch: Switch) -> None:
    """The master is configured, and everything that follows from that has come."""
    switch.join()
    switch.wait_for(lambda: switch.connected.lower() == "true", "connected to the master")
    switch.wait_for(lambda: switch.kubelet_runs, "the kubelet runs")
    switch.wait_for(lambda: switch.master.labels, "the Node is registered")


@contextmanager
def powered_on(docker: Docker, **options: Any) -> Iterator[Switch]:
    """A switch without a master, for a test that needs one after the other, or for several tests."""
    with ExitStack() as stack:
        yield _powered(stack, Switch(docker, **options))


def _powered(stack: ExitStack, switch: Switch) -> Switch:
    stack.enter_context(switch)
    stack.callback(_forget_labels, switch)
    stack.callback(_check, switch)
    return switch


def _check(switch: Switch) -> None:
    broken = [file.read_text() for file in switch.paths.marks.glob("*.twice")]
    assert not broken, f"S1: two containers past `state up` at once: {broken}\n{switch.told()}"
    switch.daemon.stop()
    assert not switch.daemon.tracebacks, "\n".join(switch.daemon.tracebacks)
    assert not switch.daemon.overdue, f"the daemon did not end in time\n{switch.told()}"


def _forget_labels(switch: Switch) -> None:
    """Leave the master as it was: a DaemonSet of the next test must not find an old label, nor its kubelet a pod."""
    if switch.kube is None:
        return
    switch.kube.thaw_api()
    switch.kube.start()
    ours = {key: None for key in switch.master.labels if "/" not in key}
    if ours:
        switch.master.call("patch", f"{NODES}/{switch.kube.node}", {"metadata": {"labels": ours}})
    # The controllers delete the pods, and make no more: what we deleted they might replace, not knowing yet.
    switch.wait_for(lambda: not pods(switch), "the master deletes all pods", PODS_S_MAX)


def pods(switch: Switch, *, ending: bool = False) -> list[str]:
    """The DaemonSets' pods that a kubelet would run on, by the master's word; with `ending` those it still ends, too.

    One that the kubelet has refused, for its node has no label any more, has failed for good and stays listed.
    """
    return [
        f"{pod['metadata']['name']} {pod['status'].get('phase')}"
        for pod in switch.master.call("get", PODS)["items"]
        if pod["metadata"].get("ownerReferences")
        and (ending or "deletionTimestamp" not in pod["metadata"])
        and pod["status"].get("phase") not in ("Failed", "Succeeded")
    ]
