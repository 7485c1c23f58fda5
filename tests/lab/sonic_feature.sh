#!/bin/sh
# What does a container of today's SONiC do? It asks by STATE_DB's row, as its start.sh does, and goes on.
# sonic_feature.sh NAME LAB MARKS, with IMAGE_VERSION in its environment, and RUNTIME_OWNER=local in a local one.
#
# MARKS: as for feature.sh. A start-up script that fails does not hold its container up: the real start.sh ignores it.
name=$1 lab=$2 marks=$3 owner=${RUNTIME_OWNER:-kube}
trap 'exit 0' TERM

/usr/bin/python3 -IS "$lab/startup.py" -f "$name" -o "$owner" -v "$IMAGE_VERSION" &
wait $!

exec 9>"$marks/$name.lock"
flock -n 9 || echo "$owner $(hostname)" >>"$marks/$name.twice"
echo "$owner" >>"$marks/$name.up"
sleep 100000 9>&- &
wait $!
