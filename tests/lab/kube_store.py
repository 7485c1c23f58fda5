"""Store the objects of the lab's API server, with versions and a history.

Knows no HTTP and no certificate. The DaemonSet controller lives here too: with everything in one place it
is one function of Nodes and DaemonSets, run after every change.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import os
import secrets
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.lab.kube_rules import RESOURCES, ApiError, Object, Resource, merged

if TYPE_CHECKING:
    from pathlib import Path

HISTORY_MAX = 1000

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One event of the history; `before` is what a watch's selector saw last (None: new)."""

    version: int
    plural: str
    kind: str
    thing: Object
    before: Object | None


@dataclass(slots=True)
class Store:
    """All objects by (plural, namespace, name). `file`: where they outlive the process."""

    file: Path | None = None
    objects: dict[Key, Object] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    version: int = 1
    compacted: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def load(self) -> None:
        """Take up what an earlier process kept; its history is gone, so older watches must list again."""
        if self.file is None or not self.file.exists():
            return
        kept = json.loads(self.file.read_text())
        self.version = self.compacted = kept["version"]
        self.objects = {(k[0], k[1], k[2]): thing for k, thing in kept["objects"]}

    def get(self, resource: Resource, namespace: str, name: str) -> Object:
        """One object. Raises ApiError 404."""
        try:
            return self.objects[resource.plural, namespace, name]
        except KeyError:
            group = f".{resource.group}" if resource.group else ""
            raise ApiError(404, "NotFound", f'{resource.plural}{group} "{name}" not found') from None

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Every object of a kind, in one namespace or in all."""
        return [
            thing
            for (plural, space, _), thing in sorted(self.objects.items())
            if plural == resource.plural and namespace in ("", space)
        ]

    def create(self, resource: Resource, namespace: str, thing: Object) -> Object:
        """Add it. Raises ApiError 409 where it exists, 422 without a name."""
        given = thing.get("metadata") or {}
        name = given.get("name") or (given["generateName"] + _random() if given.get("generateName") else "")
        if not name:
            detail = "metadata.name: Required value: name or generateName is required"
            raise ApiError(422, "Invalid", f'{resource.kind} "" is invalid: {detail}')
        if (resource.plural, namespace, name) in self.objects:
            raise ApiError(409, "AlreadyExists", f'{resource.plural} "{name}" already exists')
        metadata = {
            **given,
            "name": name,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": _now(),
            **({"namespace": namespace} if resource.namespaced else {}),
        }
        fresh = {"kind": resource.kind, "apiVersion": resource.api_version, **thing, "metadata": metadata}
        return self._put(resource, namespace, name, fresh, None)

    def update(self, resource: Resource, namespace: str, name: str, patch: Object) -> Object:
        """Merge `patch` in; what changes nothing keeps its version. Raises ApiError 404, 409 (stale)."""
        before = self.get(resource, namespace, name)
        asked = (patch.get("metadata") or {}).get("resourceVersion")
        if asked is not None and asked != before["metadata"]["resourceVersion"]:
            detail = (
                "the object has been modified; please apply your changes to the latest version and try again"
            )
            raise ApiError(
                409, "Conflict", f'Operation cannot be fulfilled on {resource.plural} "{name}": {detail}'
            )
        after = merged(before, patch)
        return before if after == before else self._put(resource, namespace, name, after, before)

    def delete(self, resource: Resource, namespace: str, name: str, grace_s: int | None = None) -> Object:
        """Remove it; a Pod on a node is marked until its kubelet asks without grace. Raises ApiError 404."""
        before = self.get(resource, namespace, name)
        if resource.plural == "pods" and grace_s != 0 and before.get("spec", {}).get("nodeName"):
            if "deletionTimestamp" in before["metadata"]:
                return before
            marks = {
                "deletionTimestamp": _now(),
                "deletionGracePeriodSeconds": 30 if grace_s is None else grace_s,
            }
            return self.update(resource, namespace, name, {"metadata": marks})
        del self.objects[resource.plural, namespace, name]
        return self._record("DELETED", resource, before, before)

    def compact(self) -> None:
        """Forget the history: every watch from an older version is told 410."""
        self.compacted = self.version
        self.history.clear()

    def since(self, version: int) -> list[Change]:
        """Changes after `version`. Raises ApiError 410 where they are forgotten."""
        if version < self.compacted:
            raise ApiError(410, "Expired", f"too old resource version: {version} ({self.compacted})")
        return [change for change in self.history if change.version > version]

    def _put(self, resource: Resource, space: str, name: str, thing: Object, before: Object | None) -> Object:
        stored = self._record("ADDED" if before is None else "MODIFIED", resource, thing, before)
        self.objects[resource.plural, space, name] = stored
        return stored

    def _record(self, kind: str, resource: Resource, thing: Object, before: Object | None) -> Object:
        self.version += 1
        stored = {**thing, "metadata": {**thing["metadata"], "resourceVersion": str(self.version)}}
        self.history.append(Change(self.version, resource.plural, kind, stored, before))
        if len(self.history) > HISTORY_MAX:
            self.compacted = self.history.pop(0).version
        return stored

    def publish(self) -> None:
        """Settle what follows from the last change, keep it all, wake the watches."""
        run_daemonsets(self)
        if self.file is not None:
            fresh = self.file.with_name(f"{self.file.name}.new")
            fresh.write_text(json.dumps({"version": self.version, "objects": list(self.objects.items())}))
            os.replace(fresh, self.file)
        self.changed.set()
        self.changed = asyncio.Event()


def run_daemonsets(store: Store) -> None:
    """The DaemonSet controller: one Pod of today's template per node that the selector means, no other."""
    pods, nodes = RESOURCES["pods"], store.all(RESOURCES["nodes"])
    owned: dict[tuple[str, str], list[Object]] = {}
    for pod in store.all(pods):
        for owner in pod["metadata"].get("ownerReferences", ()):
            owned.setdefault((owner["uid"], pod["spec"]["nodeName"]), []).append(pod)
    for daemonset in store.all(RESOURCES["daemonsets"]):
        revision = _revision(daemonset)
        for node in nodes:
            mine = owned.pop((daemonset["metadata"]["uid"], node["metadata"]["name"]), [])
            wanted = _wants(daemonset, node)
            keep = [
                p for p in mine if wanted and p["metadata"]["labels"]["controller-revision-hash"] == revision
            ]
            for pod in mine:
                if pod not in keep:
                    store.delete(pods, pod["metadata"]["namespace"], pod["metadata"]["name"])
            if wanted and not mine:
                store.create(pods, daemonset["metadata"]["namespace"], _pod(daemonset, node, revision))
    for orphan in (pod for orphans in owned.values() for pod in orphans):
        store.delete(pods, orphan["metadata"]["namespace"], orphan["metadata"]["name"])


def _wants(daemonset: Object, node: Object) -> bool:
    selector = daemonset["spec"]["template"]["spec"].get("nodeSelector") or {}
    labels = node["metadata"].get("labels") or {}
    return "deletionTimestamp" not in daemonset["metadata"] and selector.items() <= labels.items()


def _revision(daemonset: Object) -> str:
    return hashlib.sha256(json.dumps(daemonset["spec"]["template"], sort_keys=True).encode()).hexdigest()[:10]


def _pod(daemonset: Object, node: Object, revision: str) -> Object:
    template: Any = daemonset["spec"]["template"]
    metadata = daemonset["metadata"]
    return {
        "metadata": {
            "generateName": f"{metadata['name']}-",
            "labels": {
                **(template.get("metadata", {}).get("labels") or {}),
                "controller-revision-hash": revision,
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": "DaemonSet",
                    "name": metadata["name"],
                    "uid": metadata["uid"],
                    "controller": True,
                }
            ],
        },
        "spec": {**template["spec"], "nodeName": node["metadata"]["name"]},
        "status": {"phase": "Pending"},
    }


def _random() -> str:
    return "".join(secrets.choice("bcdfghjklmnpqrstvwxz2456789") for _ in range(5))


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
