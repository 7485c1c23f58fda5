"""Stand in for kubeadm: join, reset and version, as far as a switch notices, in the real one's words.

    python tests/lab/kubeadm.py FOLDER version -o short | join … | join phase preflight … | reset -f …

FOLDER/kubeadm.json: `kubeconfig`, where the kubelet's credential goes; `config`, where the cluster's settings for
kubelets go; `pki`, the folder of the CA that signs credentials;
`start`, the command that starts the kubelet; `token`, the one that is known; `delay_s`, how long a join takes;
`go`, a file that ends this delay.
FOLDER/kubeadm.calls gets one line per call; what FOLDER/kubeadm.fails names fails. Knows nothing of kubesyncd.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.lab.certificates import Authority, write_kubeconfig
from tests.lab.client_tls import load_pair

# As from the cluster's ConfigMap, shortened.
KUBELET_CONFIG = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
clusterDNS:
- 10.96.0.10
evictionHard: {}
rotateCertificates: true
staticPodPath: /etc/kubernetes/manifests
syncFrequency: 0s
"""
PR_SET_PDEATHSIG = 1  # linux/prctl.h
FATAL = "error execution phase preflight: [preflight] Some fatal errors occurred:\n\t[ERROR {}]: {}\n"


def main(folder: Path, words: list[str]) -> int:
    """Do as told; returns kubeadm's exit code."""
    end_with_parent()
    with (folder / "kubeadm.calls").open("a") as calls:
        calls.write(" ".join(words) + "\n")
    settings = json.loads((folder / "kubeadm.json").read_text())
    kubeconfig = Path(settings["kubeconfig"])
    if words[0] == "version":
        print("v1.20.2")
        return 0
    fails = folder / "kubeadm.fails"
    if fails.exists() and words[0] in fails.read_text():
        print(
            f"error execution phase {words[0]}: injected\nTo see the stack trace of this error …",
            file=sys.stderr,
        )
        return 1
    if words[0] == "reset":
        kubeconfig.unlink(missing_ok=True)
        return 0
    try:
        if words[1:3] == ["phase", "preflight"]:
            preflight(settings, words[3:])
        else:
            join(settings, kubeconfig, words[1:])
    except JoinError as error:
        print(f"{error}\nTo see the stack trace of this error execute with --v=5 or higher", file=sys.stderr)
        return 1
    return 0


def end_with_parent() -> None:
    """End with the job that has started us, however it ends, as systemd ends all of a unit."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


class JoinError(Exception):
    """kubeadm gives up."""


def join(settings: dict[str, Any], kubeconfig: Path, words: list[str]) -> None:
    """Preflight, and in the end a credential for the node and the Node itself."""
    if kubeconfig.exists():
        raise JoinError(
            FATAL.format("FileAvailable--etc-kubernetes-kubelet.conf", f"{kubeconfig} already exists")
        )
    node, server, ca, there = preflight(settings, words)
    if any(
        c["type"] == "Ready" and c["status"] == "True" for c in there.get("status", {}).get("conditions", [])
    ):
        raise JoinError(
            f'error execution phase kubelet-start: a Node with name "{node}" and status "Ready" already exists'
        )
    deadline = time.monotonic() + float(settings.get("delay_s", 0))
    while time.monotonic() < deadline and not Path(settings["go"]).exists():
        time.sleep(0.05)
    issued = Authority(Path(settings["pki"])).issue("joined", f"system:node:{node}", "system:nodes")
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    write_kubeconfig(kubeconfig, server, ca, issued, inline=False)
    config = Path(settings["config"])
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(KUBELET_CONFIG)
    subprocess.run(settings["start"], check=True, timeout=180)


def preflight(settings: dict[str, Any], words: list[str]) -> tuple[str, str, bytes, dict[str, Any]]:
    """What is asked of the master: the node's name, its server and CA, and the Node that there is already."""
    parser = argparse.ArgumentParser()
    for option in (
        "--discovery-file",
        "--node-name",
        "--cri-socket",
        "--ignore-preflight-errors",
        "--config",
    ):
        parser.add_argument(option, default="")
    given = parser.parse_args(words)
    if given.config:
        document = json.loads(Path(given.config).read_text())
        node, found = document["nodeRegistration"]["name"], document["discovery"]["bootstrapToken"]
        if found["token"] != settings.get("token"):
            raise JoinError(
                "error execution phase preflight: couldn't validate the identity of the API Server"
            )
        server = f"https://{found['apiServerEndpoint']}"
        authority = Authority(Path(settings["pki"]))
        caller = authority.issue("bootstrap", "admin", "system:masters")
        ca, pair = authority.pem, (caller.certificate.read_bytes(), caller.key.read_bytes())
    else:
        node = given.node_name
        config = yaml.safe_load(Path(given.discovery_file).read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        server, ca = cluster["server"], base64.b64decode(cluster["certificate-authority-data"])
        names = ("client-certificate-data", "client-key-data")
        pair = (base64.b64decode(user[names[0]]), base64.b64decode(user[names[1]]))
    return node, server, ca, Call(server, ca, pair)("GET", f"/api/v1/nodes/{node}")


class Call:
    """Calls to the API server with the credential kubeadm was given. A 404 is an empty answer."""

    def __init__(self, server: str, ca: bytes, pair: tuple[bytes, bytes]) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cadata=ca.decode())
        load_pair(self._tls, *pair)

    def __call__(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._server + path, data, {"Content-Type": "application/json"}, method=method
        )
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._tls)
        )
        try:
            with opener.open(request, timeout=10) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return {}
            raise JoinError(f"error execution phase kubelet-start: {error}") from error
        except OSError as error:
            raise JoinError(
                f"error execution phase preflight: couldn't reach the API Server: {error}"
            ) from error


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
