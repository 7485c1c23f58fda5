"""Check that invalid names never reach the engine, and that its invalid answers are handled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from kubesyncd.adapters.docker_images import DockerImages
from kubesyncd.core.image_model import NAME
from kubesyncd.ports import Refused, Unavailable
from kubesyncd.settings import DockerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LOCAL = "docker-snmp:latest"
IMAGE = f"sha256:{'ab' * 32}"
CONTAINER = "ab" * 32
# Each is invalid as the name or ID of an image, a container or a feature.
EVIL = {
    "a folder above": "../x",
    "a folder above, with a tag": "../x:latest",
    "a folder above in its midst": "a/../../containers/snmp:latest",
    "this folder": "a/./x:latest",
    "nothing between two bars": "a//x:latest",
    "a bar at its end": "a:latest/",
    "an option": "-rf",
    "an option, with a tag": "-rf:latest",
    "an option as a tag": "a:-rf",
    "a space": "a b",
    "a shell's word": "$(x)",
    "a shell's word as a tag": "a:$(x)",
    "a NUL": "a\0b:latest",
    "a newline": "a\nb:latest",
    "a newline at its end": f"{LOCAL}\n",
    "half a letter": "\ud800:latest",
    "a MiB": "a" * (1 << 20),
    "a MiB, with a tag": "a" * (1 << 20) + ":latest",
    "two tags": "x:y:z",
    "a port without a path": "registry:5000:latest",
    "no tag": "a:",
    "a digest": f"a@{IMAGE}",
    "a query": "a:latest?force=1",
    "an escaped bar": "a%2f..%2fx:latest",
    "nothing": "",
}


class Engine:
    """Gives every caller the same answer, and records the requests. `port` is ours, connected to it."""

    def __init__(self, socket: Path) -> None:
        self.port = DockerImages(DockerSettings(f"unix://{socket}"))
        self.requests: list[str] = []
        self.answers: dict[str, str] = {}

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.raw_path}")
        body = next((text for end, text in self.answers.items() if request.path.endswith(end)), "{}")
        return web.Response(text=body, content_type="application/json")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    made = Engine(tmp_path / "docker.sock")
    made.answers["/version"] = '{"ApiVersion": "1.41"}'
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "docker.sock")).start()
    yield made
    await runner.cleanup()


def calls(port: DockerImages, evil: str) -> dict[str, Any]:
    """Every call that takes a name or an ID, with the evil one in each place."""
    return {
        "tag, the image": lambda: port.tag(evil, LOCAL),
        "tag, the name": lambda: port.tag(IMAGE, evil),
        "remove": lambda: port.remove(evil),
        "renew, the feature": lambda: port.renew(evil, LOCAL),
        "renew, the name": lambda: port.renew("snmp", evil),
        "localize, the feature": lambda: port.localize(evil, CONTAINER, LOCAL),
        "localize, the container": lambda: port.localize("snmp", evil, LOCAL),
        "localize, the name": lambda: port.localize("snmp", CONTAINER, evil),
        "unlocalize": lambda: port.unlocalize(evil),
        "finish": lambda: port.finish(evil),
        "made_from": lambda: port.made_from(evil),
    }


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
async def test_an_invalid_name_or_id_never_reaches_the_engine(engine: Engine, evil: str) -> None:
    for what, call in calls(engine.port, evil).items():
        with pytest.raises(Refused) as refusal:
            await call()
        assert engine.requests == [], what
        assert len(str(refusal.value)) < 200, what
        assert str(refusal.value).isprintable(), what


@pytest.mark.parametrize(
    "name",
    [
        LOCAL,
        "registry.example:5000/sonic/docker-snmp:v2",
        "a/B-c_d.e:V1.0_rc-1",
        "localhost:5000/a/b/c/d:1",
        "7:_x",
    ],
)
async def test_names_as_docker_has_them_reach_it(engine: Engine, name: str) -> None:
    assert NAME.fullmatch(name)
    await engine.port.tag(IMAGE, name)
    assert engine.requests[-1].startswith(f"POST /v1.41/images/{IMAGE}/tag?")


@pytest.mark.parametrize("field", ["Created", "Size"])
async def test_a_number_beyond_all_limits_makes_the_answer_unreadable(engine: Engine, field: str) -> None:
    engine.answers["/images/json"] = f'[{{"Id": "{IMAGE}", "{field}": 1e9990}}]'
    engine.answers["/containers/json"] = "[]"
    with pytest.raises(Unavailable, match="an unreadable answer"):
        await engine.port.stock()


async def test_an_image_without_an_id_is_an_unreadable_answer(engine: Engine) -> None:
    engine.answers["/images/json"] = "[{}]"
    engine.answers["/containers/json"] = "[]"
    with pytest.raises(Unavailable, match="an unreadable answer"):
        await engine.port.stock()


async def test_a_container_without_a_config_is_an_unreadable_answer(engine: Engine) -> None:
    engine.answers["/containers/snmp/json"] = f'{{"Id": "{CONTAINER}", "Name": "/snmp"}}'
    with pytest.raises(Unavailable, match="an unreadable answer"):
        await engine.port.made_from("snmp")
