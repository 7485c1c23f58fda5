#!/bin/sh
# What does systemd do for a feature's service? ExecStartPre, ExecStart, ExecStop, Restart=always; TERM stops it.
# unit.sh NAME CLIENTS RESTART_S CREATE COMMAND...: the last one makes the local container where there is none.
name=$1 clients=$2 restart_s=$3
shift 3

# All of a stop, for TERM may come at any time: what only sets a mark is too late right before `wait`.
# A client in the foreground ends first.
end() {
    [ -z "$begun" ] || "$clients/container" stop "$name"
    exit
}

begun=
trap end TERM
while :; do
    begun=yes
    "$@"
    "$clients/container" start "$name" && {
        "$clients/container" wait "$name" &
        wait $!
        echo "wait returned $?"
    }
    "$clients/container" stop "$name"
    begun=
    sleep "$restart_s" &
    wait $!
done
