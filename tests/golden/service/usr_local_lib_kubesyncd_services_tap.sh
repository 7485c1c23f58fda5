#!/bin/sh
# What the unit of tap does at start and stop. There is no local container: Kubernetes brings it.
# Written by kubesync, which takes it away again: kubesync config feature uninstall tap
name=tap

run() {
    "$@" && return
    code=$?
    echo "$name: $* ended with code $code" >&2
    return "$code"
}

give_up() {
    code=$?
    container stop "$name"
    exit "$code"
}

case ${1-} in
start)
    run env modprobe tap || exit
    run /bin/sh -c 'echo "a $HOME" >/tmp/x; exit 0' || exit
    container start "$name" || exit
    run /usr/bin/true || give_up
    ;;
wait)
    exec container wait "$name"
    ;;
stop)
    # Whatever fails here, the rest of it is done too.
    run /bin/echo 'it'"'"'s over'
    run env logger -- -n 50%
    container stop "$name"
    stopped=$?
    run /bin/rm -f '/tmp/a b'
    exit "$stopped"
    ;;
*)
    echo "usage: $0 start|wait|stop" >&2
    exit 64
    ;;
esac
