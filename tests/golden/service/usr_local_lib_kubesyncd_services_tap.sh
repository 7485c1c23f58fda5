#!/bin/sh
# Run by the unit of tap at start and stop. It has no local container: Kubernetes deploys it.
# Written by kubesync, and removed by: kubesync config feature uninstall tap
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
    # A command that fails does not stop the others.
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
