"""Check the port Images over the lab's engine and over the real dockerd: one suite for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kubesyncd.adapters.docker_images import DockerImages
from kubesyncd.core.image_model import IMAGE_ID
from kubesyncd.ports import Missing, Refused, Unavailable
from kubesyncd.settings import DockerSettings
from tests.lab.docker_client import DockerError
from tests.lab.image_bench import LOCAL, PREVIOUS, REPOSITORY, ImageBench

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.engines import Docker

KUBE = f"{REPOSITORY}:v2"


@pytest.fixture
def bench(engine: Docker, tmp_path: Path) -> Iterator[ImageBench]:
    made = ImageBench(engine, tmp_path)
    yield made
    made.clear()


async def test_the_stock_tells_names_ids_and_what_is_in_use(bench: ImageBench) -> None:
    one, two = bench.image(LOCAL), bench.image(KUBE)
    bench.create()
    stock = await bench.port.stock()
    assert (stock.named(LOCAL), stock.named(KUBE)) == (one, two)
    assert IMAGE_ID.fullmatch(one)
    assert one in stock.used, "a container that never ran was made from it"
    assert two not in stock.used
    image = stock.image(one)
    assert image is not None
    assert image.created > 1_600_000_000
    assert stock.named("docker-snmp:lat") == ""


async def test_an_image_exists_by_name_and_by_id(bench: ImageBench) -> None:
    one = bench.image(LOCAL)
    for reference, exists in ((LOCAL, True), (one, True), (PREVIOUS, False), (f"sha256:{'0' * 64}", False)):
        assert await bench.port.exists(reference) is exists
    assert await bench.port.exists("docker-snmp") is True, "Docker adds the tag"
    bench.docker.remove_image(LOCAL)
    assert await bench.port.exists(LOCAL) is False
    with pytest.raises(Refused):
        await bench.port.exists("../containers/json")


async def test_a_tag_moves_and_the_image_that_had_it_stays(bench: ImageBench) -> None:
    one, two = bench.image(LOCAL), bench.image(KUBE)
    await bench.port.tag(one, PREVIOUS)
    await bench.port.tag(two, LOCAL)
    stock = await bench.port.stock()
    assert (stock.named(LOCAL), stock.named(PREVIOUS)) == (two, one)
    await bench.port.tag(two, LOCAL)
    with pytest.raises(Missing):
        await bench.port.tag(f"sha256:{'0' * 64}", LOCAL)


@pytest.mark.upstream("kube_commands/clean-error", "differs")
async def test_an_image_in_use_is_never_removed_and_one_gone_is_success(bench: ImageBench) -> None:
    bench.image(LOCAL)
    container = bench.create()
    with pytest.raises(Refused):
        await bench.port.remove(LOCAL)
    assert (await bench.port.stock()).named(LOCAL)
    bench.docker.remove(container)
    await bench.port.remove(LOCAL)
    await bench.port.remove(LOCAL)
    assert not (await bench.port.stock()).named(LOCAL)


async def test_the_local_container_is_replaced_by_an_equal_one_from_the_new_image(bench: ImageBench) -> None:
    bench.image(LOCAL, Env=["VERSION=1", "HOME=/root"], Labels={"maker": "one"}, Cmd=["/bin/old"])
    old = bench.create(
        Env=["RUNTIME_OWNER=local"],
        Labels={"mine": "yes"},
        HostConfig={"NetworkMode": "none", "Binds": ["/tmp:/mnt:ro"], "RestartPolicy": {"Name": "no"}},
    )
    assert await bench.port.made_from("snmp") == LOCAL
    new = bench.image(KUBE, Env=["VERSION=2"], Labels={"maker": "two"}, Cmd=["/bin/new"])
    await bench.port.tag(new, LOCAL)
    assert await bench.port.renew("snmp", LOCAL)
    found = bench.docker.inspect("snmp")
    assert found["Id"] != old
    assert found["Image"] == new
    config = found["Config"]
    assert config["Image"] == LOCAL
    assert "RUNTIME_OWNER=local" in config["Env"]
    assert "VERSION=2" in config["Env"]
    assert "VERSION=1" not in config["Env"]
    assert (config["Labels"]["maker"], config["Labels"]["mine"]) == ("two", "yes")
    assert config["Cmd"] == ["/bin/new"]
    assert found["HostConfig"]["Binds"] == ["/tmp:/mnt:ro"]
    assert found["HostConfig"]["NetworkMode"] == "none"
    assert not await bench.port.renew("snmp", LOCAL), "it is of that image already"


async def test_a_running_or_missing_container_is_not_replaced(bench: ImageBench) -> None:
    bench.image(LOCAL)
    assert not await bench.port.renew("snmp", LOCAL)
    assert await bench.port.made_from("snmp") == ""
    container = bench.create(Cmd=["/bin/sleep", "1000"])
    bench.docker.do("start", container)
    await bench.port.tag(bench.image(KUBE), LOCAL)
    assert not await bench.port.renew("snmp", LOCAL)
    assert bench.docker.inspect("snmp")["Id"] == container


async def test_leftovers_of_a_power_cut_are_removed(bench: ImageBench) -> None:
    bench.image(LOCAL)
    bench.create()
    new = bench.image(KUBE)
    await bench.port.tag(new, LOCAL)
    bench.create("snmp.new")
    assert await bench.port.renew("snmp", LOCAL)
    assert bench.docker.inspect("snmp")["Image"] == new
    with pytest.raises(DockerError):
        bench.docker.inspect("snmp.new")


async def test_a_power_cut_before_the_last_rename_loses_no_local_container(bench: ImageBench) -> None:
    image_id = bench.image(LOCAL)
    half_made = bench.create("snmp.new")
    assert await bench.port.unfinished() == ("snmp",)
    assert await bench.port.finish("snmp")
    assert bench.docker.inspect("snmp")["Id"] == half_made
    assert await bench.port.unfinished() == ()
    bench.create("snmp.new")
    assert not await bench.port.finish("snmp"), "there is a whole one"
    assert bench.docker.inspect("snmp")["Id"] == half_made
    assert await bench.port.unfinished() == ()
    assert bench.docker.inspect("snmp")["Image"] == image_id


def as_a_kubelet_makes_it(bench: ImageBench, folder: Path) -> str:
    """A pod's container in Docker's words, and its sandbox; the container's ID."""
    uid = "0b6c9d0e-1111-2222-3333-444455556666"
    pod = folder / "pods" / uid
    mounts = {
        "etc-hosts": "/etc/hosts",
        "containers/snmp/1a2b": "/dev/termination-log",
        "volumes/kubernetes.io~secret/default-token-x": "/var/run/secrets/kubernetes.io/serviceaccount",
        "volumes/kubernetes.io~empty-dir/scratch": "/scratch",
        "volumes/kubernetes.io~configmap/settings": "/etc/settings",
    }
    for name in mounts:
        (pod / name).parent.mkdir(parents=True, exist_ok=True)
        (pod / name).touch() if name.count("/") in (0, 2) and "volumes" not in name else (pod / name).mkdir()
    kube = {"io.kubernetes.pod.uid": uid, "io.kubernetes.container.name": "snmp"}
    sandbox = bench.create(
        "k8s_POD_snmp", "busybox:lab", Cmd=["/bin/sleep", "1000"], HostConfig={"NetworkMode": "host"}
    )
    bench.docker.do("start", sandbox)
    return bench.create(
        "k8s_snmp_snmp",
        KUBE,
        Entrypoint=["/bin/snmpd"],
        Cmd=["-f"],
        Env=["KUBERNETES_PORT=tcp://10.96.0.1:443", "RUNTIME_OWNER=kube", "MINE=1"],
        Labels={**kube, "io.kubernetes.docker.type": "container", "annotation.io.kubernetes.x": "1"},
        HostConfig={
            "NetworkMode": f"container:{sandbox}",
            "Binds": ["/tmp:/mnt:ro", *(f"{pod / name}:{target}" for name, target in mounts.items())],
            "CapAdd": ["NET_ADMIN"],
            "CpuShares": 2,
            "OomScoreAdj": 1000,
        },
    )


async def test_a_local_container_can_be_made_after_the_one_that_kubernetes_runs(
    bench: ImageBench, tmp_path: Path
) -> None:
    image_id = bench.image(KUBE)
    kube = as_a_kubelet_makes_it(bench, tmp_path)
    await bench.port.tag(image_id, LOCAL)
    assert await bench.port.localize("snmp", kube, LOCAL) == ("/etc/settings",)
    found = bench.docker.inspect("snmp")
    config, host = found["Config"], found["HostConfig"]
    assert (found["Image"], config["Image"]) == (image_id, LOCAL)
    assert [*config["Entrypoint"], *config["Cmd"]] == ["/bin/snmpd", "-f"]
    assert {"RUNTIME_OWNER=local", "MINE=1"} <= set(config["Env"])
    assert not any(pair.startswith(("KUBERNETES_", "RUNTIME_OWNER=kube")) for pair in config["Env"])
    assert not any("kubernetes" in label for label in config["Labels"] or {}), (
        "no kubelet takes it for its own"
    )
    assert host["Binds"] == ["/tmp:/mnt:ro"]
    assert host["NetworkMode"] == "host", "as its sandbox"
    assert host["CapAdd"] == ["NET_ADMIN"]
    assert not host.get("OomScoreAdj")
    with pytest.raises(Refused):
        await bench.port.localize("snmp", kube, LOCAL)
    assert await bench.port.unlocalize("snmp")
    assert await bench.port.made_from("snmp") == ""
    bench.create()
    assert not await bench.port.unlocalize("snmp"), "that one is a unit script's"
    assert await bench.port.made_from("snmp") == LOCAL
    with pytest.raises(Missing):
        await bench.port.localize("lldp", "0" * 64, LOCAL)


@pytest.mark.parametrize("name", ["", "../../etc", "docker snmp:latest", "docker-snmp", "-x:y", "x?y:z"])
async def test_an_invalid_image_name_never_reaches_docker(bench: ImageBench, name: str) -> None:
    with pytest.raises(Refused):
        await bench.port.remove(name)
    with pytest.raises(Refused):
        await bench.port.tag(f"sha256:{'0' * 64}", name)


async def test_an_engine_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    port = DockerImages(DockerSettings(url=f"unix://{tmp_path}/none.sock"))
    with pytest.raises(Unavailable):
        await port.stock()
