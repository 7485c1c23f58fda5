"""Check which image is tagged, kept and removed on real engines, with a power cut at each step."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from kubesyncd.images.policy import ImageRecord
from kubesyncd.images.store import decode
from kubesyncd.ports import Missing, Refused, Unavailable
from kubesyncd.runtime.state_files import StateFile
from tests.lab.crash_points import count_effects
from tests.lab.image_bench import LOCAL, PREVIOUS, REPOSITORY, ImageBench
from tests.wait import until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from kubesyncd.adapters.docker_images import DockerImages
    from tests.lab.engines import Docker

MUTATING = ("tag", "remove", "renew")


class PowerCut(BaseException):
    """The machine is off."""


@dataclass
class Cut:
    """The Images port, until the power is cut: right before or right after its n-th change."""

    port: DockerImages
    at: int = 10**6
    before: bool = False
    changes: int = field(default=0)

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self.port, name)
        if name not in MUTATING:
            return asked

        async def change(*arguments: Any) -> Any:
            self.changes += 1
            if self.changes == self.at and self.before:
                raise PowerCut
            answer = await asked(*arguments)
            if self.changes == self.at:
                raise PowerCut
            return answer

        return change


@pytest.fixture
def bench(engine: Docker, tmp_path: Path) -> Iterator[ImageBench]:
    made = ImageBench(engine, tmp_path)
    yield made
    made.clear()


@pytest.mark.upstream("kube_commands/clean-local-to-kube", "differs")
async def test_both_modes_share_one_image_and_the_one_before_is_kept(bench: ImageBench) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    store = bench.store()
    await store.adopt("snmp", v2)
    assert await bench.tags() == (v2, v1)
    assert bench.container_image == v2
    assert await store.tidy("snmp") == []


async def test_older_images_are_removed_once_nothing_needs_them(bench: ImageBench) -> None:
    v1 = bench.boot()
    await bench.store().adopt("snmp", bench.image(f"{REPOSITORY}:v2"))
    v2, _ = await bench.tags()
    other = bench.image("docker-snmp-sv2:v1")
    v3 = bench.image(f"{REPOSITORY}:v3")
    # A container of the operator's own still needs the first one.
    mine = bench.docker.create("debug.mine", {"Image": v1, "Cmd": ["/bin/true"]})
    await bench.store().adopt("snmp", v3)
    assert await bench.tags() == (v3, v2)
    store = bench.store()
    assert await store.tidy("snmp") == []
    bench.docker.remove(mine)
    removed = await store.tidy("snmp")
    assert len(removed) == 1
    stock = await bench.port.stock()
    assert stock.image(v1) is None
    assert all(stock.image(kept) for kept in (v2, v3, other))


async def test_a_rollback_goes_back_to_the_image_before_and_so_does_the_local_container(
    bench: ImageBench,
) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    await bench.store().adopt("snmp", v2)
    await bench.store().restore("snmp", v2)
    assert await bench.tags() == (v1, v1)
    assert bench.container_image == v1
    await bench.store().restore("snmp", v2)
    assert await bench.tags() == (v1, v1)


async def test_a_missing_local_image_is_named_and_one_of_an_unknown_name_is_not(bench: ImageBench) -> None:
    store = bench.store()
    assert await store.missing_local("snmp", "") == "", "its name is not known"
    assert await store.missing_local("snmp", LOCAL) == LOCAL
    v1 = bench.boot()
    assert await store.missing_local("snmp", LOCAL) == ""
    assert await store.missing_local("snmp", v1) == "", "a container may be made from an ID"
    assert await store.missing_local("snmp", v1.removeprefix("sha256:")[:12]) == ""
    await store.adopt("snmp", bench.image(f"{REPOSITORY}:v2"))
    bench.docker.remove("snmp")
    bench.docker.remove_image(LOCAL)
    assert await store.missing_local("snmp", "") == LOCAL, "as it was adopted"
    assert await store.missing_local("snmp", "not a name") == LOCAL


async def test_a_rollback_restores_a_local_image_that_was_removed(bench: ImageBench) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    await bench.store().adopt("snmp", v2)
    bench.docker.remove("snmp")
    bench.docker.remove_image(LOCAL)
    await bench.store().restore("snmp", v2)
    assert await bench.tags() == (v1, v1)
    for name in (LOCAL, PREVIOUS):
        bench.docker.remove_image(name)
    with pytest.raises(
        Refused, match=f"{LOCAL} does not exist, and no image from before the failure is kept"
    ):
        await bench.store().restore("snmp", v2)


async def test_the_local_image_is_missing_where_none_of_its_names_exists(bench: ImageBench) -> None:
    """An upgrade removes the tag that the last local container was made from; the unit's script uses another one."""
    store = bench.store(listed="docker-snmp")
    v1 = bench.image(LOCAL)
    assert await store.missing_local("snmp", "docker-snmp:1.0") == ""
    assert await store.missing_local("snmp", f"sha256:{'0' * 64}") == ""
    await store.adopt("snmp", v1)
    assert await bench.store().missing_local("snmp", "docker-snmp:1.0") == "", "the adopted one exists"
    bench.docker.remove_image(LOCAL)
    assert await store.missing_local("snmp", "docker-snmp:1.0") == "docker-snmp:1.0"
    assert await store.missing_local("snmp", v1) == LOCAL, "an operator can restore a name"


async def test_a_rollback_from_what_was_never_adopted_changes_nothing(bench: ImageBench) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    await bench.store().restore("snmp", v2)
    assert await bench.tags() == (v1, "")
    with pytest.raises(Refused, match="no image from before the failure is kept"):
        await bench.store().restore("snmp", v1)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_power_cut_at_any_step_of_tagging_is_repaired(
    bench: ImageBench, at: int, before: bool
) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    with pytest.raises(PowerCut):
        await bench.store(Cut(bench.port, at, before)).adopt("snmp", v2)
    local, _ = await bench.tags()
    assert local in (v1, v2), "there is a local image at every moment"
    bench.docker.inspect("snmp")
    await bench.store().adopt("snmp", v2)
    assert await bench.tags() == (v2, v1)
    assert bench.container_image == v2
    assert await bench.store().tidy("snmp") == []


def cut_at(effect: int) -> Callable[[], None]:
    """To be called after each effect: the power goes at this one."""
    left = iter(range(effect, 0, -1))

    def count() -> None:
        if next(left, 2) == 1:
            raise PowerCut

    return count


async def test_a_power_cut_after_any_effect_of_an_adoption_or_a_rollback_is_repaired(
    engine: Docker, tmp_path: Path
) -> None:
    """Files, tags, and the three steps in which a local container is replaced."""
    for effect in range(1, 30):
        bench = ImageBench(engine, tmp_path)
        v1, v2 = bench.boot(), bench.image(f"{REPOSITORY}:v2")
        with pytest.MonkeyPatch.context() as patch, suppress(PowerCut):
            count_effects(cut_at(effect), patch.setattr)
            await bench.store().adopt("snmp", v2)
            await bench.store().restore("snmp", v2)
            bench.clear()
            assert effect > 9, "an adoption and a rollback have more effects than that"
            return
        store = bench.store()
        running = asyncio.create_task(store.run())
        await until_async(bench.finished, pause_s=0.01)
        running.cancel()
        assert bench.docker.inspect("snmp")["Image"] in (v1, v2), "there is a local container to start"
        assert (await bench.tags())[0] in (v1, v2)
        await store.adopt("snmp", v2)
        assert await bench.tags() == (v2, v1)
        await store.restore("snmp", v2)
        assert await bench.tags() == (v1, v1)
        assert bench.container_image == v1
        bench.clear()
        bench.file.forget()
    raise AssertionError("an adoption and a rollback have fewer effects than that")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", [1, 2])
async def test_a_power_cut_at_any_step_of_a_rollback_is_repaired(
    bench: ImageBench, at: int, before: bool
) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    await bench.store().adopt("snmp", v2)
    with pytest.raises(PowerCut):
        await bench.store(Cut(bench.port, at, before)).restore("snmp", v2)
    await bench.store().restore("snmp", v2)
    assert await bench.tags() == (v1, v1)
    assert bench.container_image == v1


async def test_a_feature_without_a_local_image_gets_the_deployed_one(bench: ImageBench) -> None:
    v2 = bench.image(f"{REPOSITORY}:v2")
    store = bench.store()
    assert "is made from the deployed image" in await store.ensure_local("snmp", v2, dry=True)
    assert await bench.tags() == ("", "")
    await store.ensure_local("snmp", v2)
    assert await bench.tags() == (v2, "")
    assert await store.ensure_local("snmp", v2) == f"{LOCAL} exists"
    with pytest.raises(Refused):
        await store.ensure_local("lldp", f"sha256:{'0' * 64}")


async def test_a_local_container_is_made_once_after_the_deployed_one(bench: ImageBench) -> None:
    v2 = bench.image(f"{REPOSITORY}:v2")
    kube = bench.docker.create("k8s_snmp", {"Image": v2, "HostConfig": {"NetworkMode": "none"}})
    store = bench.store()
    await store.ensure_local("snmp", v2)
    assert "would be created" in (await store.ensure_container("snmp", kube, dry=True))[0]
    with pytest.raises(Refused, match="no kube container to create it from"):
        await store.ensure_container("snmp", "")
    text, whole = await store.ensure_container("snmp", kube)
    assert (text, whole) == ("its local container is created from the one that Kubernetes runs", True)
    assert bench.container_image == v2
    assert await store.ensure_container("snmp", kube) == ("", True)
    await store.forget("snmp")
    assert await store.ensure_container("snmp", "gone", dry=True) == (
        "its local container would be created from the one that Kubernetes runs", True
    )  # fmt: skip


async def test_a_full_disk_is_reported_and_nothing_is_tagged(bench: ImageBench, tmp_path: Path) -> None:
    v1 = bench.boot()
    v2 = bench.image(f"{REPOSITORY}:v2")
    full = StateFile(tmp_path / "no" / "such" / "place" / "images.json")
    (tmp_path / "no").write_text("a file where a folder should be")
    with pytest.raises(Unavailable):
        await bench.store(file=full).adopt("snmp", v2)
    assert await bench.tags() == (v1, "")


async def test_an_image_that_is_gone_is_missing(bench: ImageBench) -> None:
    bench.boot()
    with pytest.raises(Missing):
        await bench.store().adopt("snmp", f"sha256:{'0' * 64}")


async def test_without_adopting_everything_stays(bench: ImageBench) -> None:
    v1 = bench.boot()
    await bench.store(adopting=False).adopt("snmp", bench.image(f"{REPOSITORY}:v2"))
    assert await bench.tags() == (v1, "")


async def test_a_rollback_is_remembered_by_the_next_daemon(bench: ImageBench) -> None:
    store = bench.store()
    await store.note_rollback("snmp", "sha256:bad", "2026-01-02", "it failed")
    assert bench.store().remembered("snmp") == ImageRecord(
        failed="sha256:bad", failed_newest="2026-01-02", failure="it failed"
    )
    await bench.store().note_rollback("snmp", "", "", "")
    assert bench.store().remembered("snmp") == ImageRecord()


async def test_a_rollback_that_could_not_be_written_is_written_once_there_is_room(
    bench: ImageBench, tmp_path: Path
) -> None:
    (tmp_path / "full").write_text("a file where a folder should be")
    file = StateFile(tmp_path / "full" / "images.json")
    store, noted = bench.store(file=file), ("snmp", "sha256:bad", "2026-01-02", "it failed")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.note_rollback(*noted)
    (tmp_path / "full").unlink()
    await store.note_rollback(*noted)
    assert bench.store(file=file).remembered("snmp").failure == "it failed"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "features": {}}',
        b'{"version": 1, "features": {"snmp": {"known": [1]}}}',
        b"\xff",
    ],
)
async def test_an_unreadable_file_counts_as_empty(bench: ImageBench, data: bytes) -> None:
    bench.file.save(data)
    assert bench.store().remembered("snmp") == ImageRecord()
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        decode(data)
