"""Give a bare switch what stands for ctrmgrd: its program `container`, its daemon, and a pod that it has admitted.

Both programs are this project's own, in the shape of SONiC's: the same verbs, the same fields of STATE_DB, the same
order of writes and Docker calls, and the rules by which ctrmgrd's daemon restarts units and asks for labels. What is
left out: its join, its images, and its logging.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from tests.lab.kube_names import kube_box
from tests.system.installed_fixtures import IMAGE, redis

if TYPE_CHECKING:
    from tests.system.installed_switch import InstalledSwitch

PATH = "/usr/local/bin/container"

# SONiC's is in Python, and becomes `docker-rs wait ID` for the last verb: the unit's main process is then Docker's.
PROGRAM = """#!/bin/bash
action=$1 name=${!#}
state() { redis-cli -s /run/redis/redis.sock -n 6 "$@"; }
config() { redis-cli -s /run/redis/redis.sock -n 4 hget "FEATURE|$name" "$1"; }
field() { state hget "FEATURE|$name" "$1"; }
note() { state hset "FEATURE|$name" update_time "$(date '+%Y-%m-%d %H:%M:%S')" "$@" >/dev/null; }
label() { state hset 'KUBE_LABELS|SET' "${name}_enabled" "$1" >/dev/null; }
id() { if [ "$(field current_owner)" = local ]; then echo "$name"; else field container_id; fi; }
case $action in
start)
    set -- system_state up
    if [ "$(config set_owner)" = kube ]; then
        label true
        fallback=$([ -z "$(config no_fallback_to_local)" ] && echo yes)
        [ "$fallback" ] && [ "$(field remote_state || echo none)" = none ] && runs=local
    else
        label false
        runs=local
    fi
    [ "$runs" ] && set -- "$@" remote_state none current_owner local container_id "$name"
    note "$@"
    [ -z "$runs" ] || docker start "$name"
    ;;
wait)
    until found=$(id) && [ "$found" ]; do
        sleep 0.3
        [ "$(field remote_state)" != pending ] || state hset "FEATURE|$name" remote_state ready >/dev/null
    done
    exec docker wait "$found"
    ;;
stop)
    [ "$(config set_owner)" = kube ] || label false
    found=$(id)
    [ -z "$found" ] || docker stop "$found"
    set -- current_owner none container_id '' system_state down
    [ "$(field remote_state)" != running ] || set -- "$@" remote_state stopped
    note "$@"
    ;;
kill) docker kill "$(id)" ;;
id) id ;;
esac
"""

# When it starts, it looks at each row once; what it decides is in its journal.
DAEMON = """#!/bin/bash
state() { redis-cli -s /run/redis/redis.sock -n 6 "$@"; }
state keys 'FEATURE|*' | while read -r key; do
    name=${key#FEATURE|}
    [ "$name" != database ] || continue
    systemctl is-active --quiet "$name" || continue
    wants=$(redis-cli -s /run/redis/redis.sock -n 4 hget "$key" set_owner)
    owner=$(state hget "$key" current_owner) remote=$(state hget "$key" remote_state)
    again=
    if [ "$wants" = kube ]; then
        [ "${owner:-none}" = none ] || [ "$remote" != pending ] || again=yes
    else
        [ "$owner" = local ] || again=yes
    fi
    state hset 'KUBE_LABELS|SET' "${name}_enabled" "$([ "$wants" = kube ] && echo true || echo false)"
    echo "seen $name wants=$wants owner=$owner remote=$remote restart=${again:-no}"
    [ -z "$again" ] || systemctl restart "$name"
done
exec sleep infinity
"""
UNIT = "[Service]\nExecStart=/usr/bin/ctrmgrd.lab\n[Install]\nWantedBy=multi-user.target\n"


def furnish_ctrmgrd(switch: InstalledSwitch) -> None:
    """Put its program, its daemon and its settings where SONiC's image has them."""
    switch.write(PATH, PROGRAM, mode=0o755)
    switch.write("/usr/bin/ctrmgrd.lab", DAEMON, mode=0o755)
    switch.write("/lib/systemd/system/ctrmgrd.service", UNIT)
    switch.write("/etc/sonic/remote_ctr.config.json", '{"revert_to_local_on_wait_seconds": 360}')
    switch.run("systemctl", "enable", "--now", "ctrmgrd")


def pod(switch: InstalledSwitch, feature: str, *command: str, folders: tuple[str, ...] = ()) -> str:
    """Run a container as a kubelet makes it; return its ID."""
    name, labels = kube_box(feature, f"{feature}-{secrets.token_hex(3)}")
    named = [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]
    mounts = [word for path in ("/usr", "/etc", *folders) for word in ("-v", f"{path}:{path}")]
    return switch.run(
        "docker", "run", "-d", "--network", "host", "--name", name, *named, *mounts, IMAGE, *command
    )


def admitted(switch: InstalledSwitch, feature: str, container_id: str, version: str) -> None:
    """Write what the script in an image for ctrmgrd writes, once the row has let it pass."""
    redis(switch, 6, "hset", f"FEATURE|{feature}", "container_version", version, "remote_state", "pending")
    switch.wait_for(
        lambda: redis(switch, 6, "hget", f"FEATURE|{feature}", "remote_state") == "ready",
        "the unit's main process lets it pass",
    )
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    owner = ("current_owner", "kube", "container_id", container_id[:12], "update_time", now)
    redis(
        switch,
        6,
        "hset",
        f"FEATURE|{feature}",
        *owner,
        "container_version",
        version,
        "remote_state",
        "running",
    )
