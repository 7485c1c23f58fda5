#!/bin/sh
# What does systemd do for a feature's service? ExecStartPre, ExecStart, ExecStop, Restart=always; TERM stops it.
# unit.sh NAME CLIENTS RESTART_S CREATE COMMAND...: the last one makes the local container where there is none.
name=$1 clients=$2 restart_s=$3
shift 3
stopping=
trap 'stopping=yes' TERM
while [ -z "$stopping" ]; do
    "$@"
    "$clients/container" start "$name" && [ -z "$stopping" ] && {
        "$clients/container" wait "$name" &
        wait $!
        echo "wait returned $?"
    }
    "$clients/container" stop "$name"
    [ -n "$stopping" ] || {
        sleep "$restart_s" &
        wait $!
    }
done
