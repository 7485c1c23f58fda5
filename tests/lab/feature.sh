#!/bin/sh
# What does a feature's container do? It says that it is up, runs, and ends politely when told to.
# feature.sh NAME OWNER CLIENTS MARKS [LIFE_S [CODE [TERM_CODE]]]
#
# MARKS/NAME.up gets a line for each time one got past `state up`. Two past it at the same time (promise S1) are
# caught by a lock, which the kernel takes back however a container ends: MARKS/NAME.twice is written.
name=$1 owner=$2 clients=$3 marks=$4 life_s=${5:-100000} code=${6:-0} term_code=${7:-0}

goodbye() {
    "$clients/container" state "$name" down
    exit "$term_code"
}
trap goodbye TERM

# In the background, because a shell answers a signal only while it waits.
"$clients/container" state "$name" up "$owner" &
wait $! || exit 9

exec 9>"$marks/$name.lock"
flock -n 9 || echo "$owner $(hostname)" >>"$marks/$name.twice"
echo "$owner" >>"$marks/$name.up"
sleep "$life_s" 9>&- &
wait $!
exit "$code"
