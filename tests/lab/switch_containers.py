"""Make, run and find the containers of a virtual switch's features, and the images they are made from."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from tests.lab.docker_client import DockerError
from tests.lab.kube_names import NAMESPACE, kube_box, kube_name
from tests.lab.switch_clients import CLIENTS
from tests.lab.switch_units import LAB

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.lab.docker_client import DockerClient
    from tests.lab.switch_paths import SwitchPaths

IMAGE = "busybox:lab"
# What a container needs of the host's programs; the image has nothing but a busybox.
PROGRAMS = ("/usr", "/bin", "/lib", "/lib64")


class SwitchContainers:
    """The features' containers on the switch's engine."""

    def __init__(self, paths: SwitchPaths, docker: DockerClient) -> None:
        self._paths = paths
        self._docker = docker

    def create_local(self, feature: str, **container: Any) -> str:
        """Make the feature's local container, as its unit's script does; its ID."""
        return self._docker.create(feature, self.config(feature, "local", **container))

    def run_kube(
        self, feature: str, number: int = 0, *, namespace: str = NAMESPACE, name: str = "", **container: Any
    ) -> str:
        """A container as a kubelet would make and run it, where there is no kubelet; its ID.

        `name`: another name of the container in its pod.
        """
        box, labels = kube_box(name or kube_name(feature), f"{kube_name(feature)}-pod", namespace, number)
        return self.run_named(box, labels, feature, **container)

    def run_named(self, name: str, labels: dict[str, str], feature: str = "snmp", **container: Any) -> str:
        """A running container with this name and these labels, which behaves as the feature's kube one; its ID."""
        container_id = self._docker.create(name, self.config(feature, "kube", labels=labels, **container))
        self._docker.do("start", container_id)
        return container_id

    def running(self, feature: str) -> list[str]:
        """IDs of the feature's running containers by Docker's word, local ones first."""
        label = [f"io.kubernetes.container.name={kube_name(feature)}", "io.kubernetes.docker.type=container"]
        found = [*self._docker.list(name=[f"^/{feature}$"]), *self._docker.list(label=label)]
        # Docker's list lags behind its events by a moment; what it tells of one container does not.
        return [c["Id"] for c in found if self._runs(c["Id"])]

    def _runs(self, container_id: str) -> bool:
        with contextlib.suppress(DockerError):
            return bool(self._docker.inspect(container_id)["State"]["Running"])
        return False

    def ups(self, feature: str) -> list[str]:
        """Which containers of the feature got past `state up`, in order: "local" or "kube"."""
        file = self._paths.marks / f"{feature}.up"
        return file.read_text().split() if file.exists() else []

    def twice(self, feature: str) -> str:
        """Violations of promise S1: containers past `state up` while another one was; empty without any."""
        file = self._paths.marks / f"{feature}.twice"
        return file.read_text() if file.exists() else ""

    def kill_all(self) -> bool:
        """Kill every container on the engine that runs; whether there was none."""
        for container in (left := self._docker.list(status=["running"])):
            with contextlib.suppress(DockerError):
                self._docker.do("kill", container["Id"])
        return not left

    def none_left(self) -> bool:
        """Remove every container on the engine; whether there was none."""
        for container in (left := self._docker.list()):
            with contextlib.suppress(DockerError):
                self._docker.remove(container["Id"])
        return not left

    # ---- in Docker's words ----------------------------------------------------------------------

    def config(
        self,
        feature: str,
        owner: str,
        *,
        image: str = IMAGE,
        labels: Mapping[str, str] | None = None,
        restart: str = "",
        docker: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """A container that behaves as tests/lab/feature.sh says, in Docker's words; `restart`: Docker's policy.

        `docker`: more of Docker's own words, HostConfig's under that name. `options`: as for `command`.
        """
        more = dict(docker or {})
        return {
            "Image": image,
            "Labels": dict(labels or {}),
            "Cmd": self.command(feature, owner, **options),
            "Env": [f"{key}={value}" for key, value in self.environment.items()],
            "HostConfig": {
                "NetworkMode": "none",
                "Binds": [f"{a}:{a}{m}" for a, m in self.mounts.items()],
                "RestartPolicy": {"Name": restart},
                **more.pop("HostConfig", {}),
            },
            **more,
        }

    def command(
        self,
        feature: str,
        owner: str,
        *,
        life_s: float = 100000,
        code: int = 0,
        term_code: int = 0,
        command: list[str] | None = None,
    ) -> list[str]:
        """What a container runs, if not `command`; `life_s`: how long until it ends by itself, with `code`."""
        if command is not None:
            return command
        script = [str(LAB / "feature.sh"), feature, owner, str(CLIENTS), str(self._paths.marks)]
        return ["/bin/sh", *script, str(life_s), str(code), str(term_code)]

    @property
    def environment(self) -> dict[str, str]:
        """What a container finds in its environment."""
        return {
            "KUBESYNCD_CONTAINER_SOCK": str(self._paths.container_sock),
            "KUBESYNCD_HOST_SOCK": f"{self._paths.folder}/none",
        }

    @property
    def mounts(self) -> dict[str, str]:
        """Where a container finds what it needs, at the same path as the host; and how."""
        read_only = dict.fromkeys([*PROGRAMS, str(CLIENTS), str(LAB)], ":ro")
        return {**read_only, str(self._paths.container_sock.parent): "", str(self._paths.marks): ""}


class SwitchImages:
    """The images that a test makes on the switch's engine."""

    def __init__(self, docker: DockerClient) -> None:
        self._docker = docker
        self._made: list[str] = []

    def make(self, name: str) -> str:
        """An image of this name that works like every other and is none of them; its ID."""
        container = self._docker.create(
            "image.base", {"Image": IMAGE, "Cmd": ["/bin/sh"], "Labels": {"for": name}}
        )
        self._made.append(name)
        made = self._docker.commit(container, name)
        self._docker.remove(container)
        return made

    def named(self, name: str) -> str:
        """The ID of the image that has this name now; empty where there is none."""
        images = self._docker.ask("GET", "/images/json")
        return next((i["Id"] for i in images if name in (i["RepoTags"] or ())), "")

    def remove(self) -> None:
        """Every name of ours, by the last part of it: the daemon may have given some."""
        ours = {name.rpartition("/")[2].partition(":")[0] for name in self._made}
        for image in self._docker.ask("GET", "/images/json") if ours else ():
            for name in image["RepoTags"] or ():
                if name.rpartition("/")[2].partition(":")[0] in ours:
                    self._docker.remove_image(name)
