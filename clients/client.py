"""Ask kubesyncd on behalf of units, scripts and containers: container, container_state, kube_join, kube_reset.

Knows no rule of the daemon: only how to ask it, and what to do when it is absent. A busy switch starts this many
times a second, and old containers run it too. So the usual path loads only `_socket` beyond the modules that the
interpreter has loaded itself, and needs no more than Python 3.9.
"""

import posix
import sys
from _socket import AF_UNIX, SOCK_STREAM, socket, timeout

HOST_SOCK = posix.environ.get(b"KUBESYNCD_HOST_SOCK", b"/run/kubesyncd/host.sock")
CONTAINER_SOCK = posix.environ.get(b"KUBESYNCD_CONTAINER_SOCK", b"/run/kubesyncd/container/container.sock")
LEDGER = posix.environ.get(b"KUBESYNCD_LEDGER", b"/run/kubesyncd/features.json")
# A running daemon holds a lock on both folders. A cleaner may remove the first one.
RUN_DIR = LEDGER.rpartition(b"/")[0]
STATE_DIR = posix.environ.get(b"KUBESYNCD_STATE", b"/var/lib/kubesyncd")
LOCKS = b"/proc/locks"
# Names the last boot in which a daemon has written its ledger, on another file system.
MARK = STATE_DIR + b"/boot.json"
BOOT_ID = posix.environ.get(b"KUBESYNCD_BOOT_ID", b"/proc/sys/kernel/random/boot_id")
LEDGER_VERSION = 1
# Created there by a package that is being removed: no daemon will answer again.
GONE = RUN_DIR + b"/removed"
# Set by a waiter for itself when it asks again: the number of tries, whether the daemon has ever answered, and when its
# lock was last seen. Without an answer, and without a lock for a while, the waiter uses docker.
ASKED = b"KUBESYNCD_ASKED"
MET = b"KUBESYNCD_MET"
SEEN = b"KUBESYNCD_SEEN"
# The waiter's script goes here and not on its command line, which `systemctl status` shows: that one names the feature.
WAITER_ENV = b"KUBESYNCD_WAITER"
SHELLS = ("/bin/dash", "/bin/sh")

FIRST_CONTACT_S = 2
SETTLING_S = 1  # a new socket is given to its group a moment after it has been made
VERB_S_MAX = 90  # a little more than the daemon allows itself
UNIT_S_MAX = 2  # it delays the end of a unit
STATE_S_MAX = 10  # docker's default grace: a container that reports `down` is about to be killed
JOIN_S_MAX = 600  # kubeadm's own limits add up to less
FOREVER_S = float("inf")
REASON_MAX = 200  # characters; a longer reason is cut
RECV_S_MAX = 1000000  # poll() counts milliseconds in 32 bits
REPLY_LINE_MAX = 1 << 16
REPLY_MAX = 1 << 20
AGAIN_S = 0.1
AGAIN_S_MAX = 60
LOOK_S = 0.5
UNREACHABLE_S = 30  # a running daemon notices within 15 s that its sockets are gone
LOOK = 23  # SIGURG, which a process ignores that does not expect it

FAILED, USAGE, UNAVAILABLE, TIMED_OUT, NOT_ALLOWED, INTERRUPTED = 1, 64, 69, 75, 77, 130

FORMS = {
    "start": "container start NAME",
    "stop": "container stop [-t SECS] NAME",
    "kill": "container kill [-s SIGNAL] [--no-kubelet-check] NAME",
    "wait": "container wait NAME",
    "id": "container id NAME",
    "inspect": "container inspect [docker options] NAME",
    "exec": "container exec [docker options] NAME COMMAND...",
    "unit-ended": "container unit-ended NAME",
    "state": "container state NAME [up local | up kube | down | healthy | unhealthy REASON]",
    "container_state": "container_state NAME up|down [local|kube] | healthy | unhealthy REASON",
    "kube_join": "kube_join [-f]",
    "kube_reset": "kube_reset",
}

# docker's options that take a value, and its short ones that take none.
INSPECT_OPTIONS = (("-f", "--format", "--type"), "s")
EXEC_OPTIONS = (("-e", "--env", "--env-file", "-u", "--user", "-w", "--workdir", "--detach-keys"), "dit")

# Waiting costs a shell 0.2 MiB and Python 4. The shell reads the reply, and at an end of stream without
# a result becomes this script again: the same process, so systemd does not notice a daemon's restart.
WAITER = r"""
again=
while IFS= read -r line; do
  export KUBESYNCD_MET=1
  case $line in
    "A "*) again=${line#A } ;;
    "R "*) exit "${line#R }" ;;
    "O "*) printf "%s\n" "${line#O }" ;;
    "E "*) printf "%s\n" "${line#E }" >&2 ;;
    "S "*) [ -z "$NOTIFY_SOCKET" ] || systemd-notify --status="${line#S }" </dev/null ;;
  esac
done
sleep "${again:-$1}" || sleep 1
shift
exec "$@"
"""
DOCKER_WAIT = 'code=$(docker wait "$1") || exit; exit "$code"'
# Ends a feature's local container where it runs, and tells whether the admitted kube container runs on.
DOCKER_END = r"""
trap '' PIPE
name=$1 grant=$2 used=$3 kept=$4
shift 4
running=$(docker ps --no-trunc --format '{{.ID}} {{.Names}}') || exit
ids= left=
while read -r id names; do
  case ",$names," in *",$name,"*) ids="$ids $id" ;; esac
  [ "$id" != "${grant:-none}" ] || left=yes
done <<END
$running
END
[ -z "$ids" ] || docker "$@" $ids >/dev/null || exit
[ -z "$left" ] || { echo "$kept" >&2; exit 69; }
echo "$used" >&2
exit 0
"""


class ClientError(Exception):
    """The command failed: the exit code, and the line `subject: what happened; what to do`."""

    def __init__(self, code, line):
        super().__init__(line)
        self.code = code


class AbsentError(ClientError):
    """No daemon runs, for FIRST_CONTACT_S at least. `why`: why docker does not do it, `so`: and what follows."""

    def __init__(self, name, why="", so=""):
        what = "kubesyncd is not running"
        if why:
            what += f", and {why}; {so or f'Kubernetes may run {name}, so docker is not used'}"
        super().__init__(UNAVAILABLE, f"{name}: {what}; run systemctl start kubesyncd")


class LostError(Exception):
    """The daemon's ledger cannot be used, although a daemon has run since boot. The message says why."""


def main(argv):
    """Carry out the command line `argv`; return the exit code, or become docker or a waiting shell."""
    program = argv[0].rpartition("/")[2]
    try:
        if program in PROGRAMS:
            return PROGRAMS[program](program, argv[1:])
        return container(argv[1:])
    except ClientError as failure:
        say(sys.stderr, f"{program}: {failure}".encode(errors="replace"))
        return failure.code
    except KeyboardInterrupt:
        return INTERRUPTED


def container(args):
    """Run the verb of `container` with its arguments; return the exit code."""
    verb, rest = (args[0], args[1:]) if args else ("", [])
    if verb in VERBS:
        # What follows exec's NAME belongs to the command in the container.
        if asks_help(rest[:1] if verb == "exec" else rest):
            return show_usage([verb])
        return VERBS[verb](verb, rest)
    if asks_help([verb]):
        return show_usage(VERBS)
    raise ClientError(USAGE, f"invalid verb {shown(verb)}; type: container {'|'.join(VERBS)} NAME")


# The verbs: the request to send, and the plain docker command for an absent daemon.


def start(verb, args):
    """Ask the daemon to start a feature."""
    name = one_name(verb, options(verb, args, ())[1])
    return ask([verb, name], docker=[verb, name])


def stop(verb, args):
    """Ask the daemon to stop a feature, within the given grace period."""
    found, rest = options(verb, args, ("-t", "--time", "--timeout"))
    name, grace_s = one_name(verb, rest), "".join(found[-1:])
    if found and not (grace_s.isdigit() and grace_s.isascii() and len(grace_s) <= 5):
        raise usage(verb, f"-t {shown(grace_s)}: invalid number of seconds")
    return ask([verb, name, grace_s], docker=[verb, *(["-t", grace_s] if found else []), name])


def kill(verb, args):
    """Ask the daemon to kill a feature with a signal (SIGKILL by default)."""
    unchecked = "1" if "--no-kubelet-check" in args else "0"
    found, rest = options(verb, [arg for arg in args if arg != "--no-kubelet-check"], ("-s", "--signal"))
    name, signal = one_name(verb, rest), (found or ["KILL"])[-1].upper()
    signal = signal.removeprefix("SIG")
    if not (signal.isascii() and signal.replace("+", "").replace("-", "").isalnum() and len(signal) <= 10):
        raise usage(verb, f"-s {shown(signal)}: invalid signal")
    return ask([verb, name, signal, unchecked], docker=[verb, *(["-s", signal] if found else []), name])


def wait(verb, args):
    """Wait for the end of a feature; without a daemon, for the end of its container."""
    name = one_name(verb, options(verb, args, ())[1])
    try:
        return wait_for([verb, name], [HOST_SOCK])
    except AbsentError:
        follow = granted(name) if gone() else ""
        if not follow:
            only_if_local(name)
            say_docker(["wait", name])
        pass_the_front_by()
        become(SHELLS, ["sh", "-c", DOCKER_WAIT, "container", follow or name])
        raise ClientError(UNAVAILABLE, f"{name}: no shell to wait in; install /bin/sh") from None


def unit_ended(verb, args):
    """Tell the daemon that the unit of a feature ends: the unit's ExecStopPost, which neither fails nor waits long.

    The daemon asks systemd what becomes of the unit. One that does not hear of it finds it out by itself later.
    """
    name, until = one_name(verb, options(verb, args, ())[1]), clock() + UNIT_S_MAX
    try:
        sock, _ = connect([HOST_SOCK])
    except ClientError:
        return 0  # a user without the right to use docker runs no feature
    if sock:
        converse(sock, [verb, name], until, None)
    return 0


def identify(verb, args):
    """Print the ID of the container that runs a feature."""
    name = one_name(verb, options(verb, args, ())[1])
    return ask(
        [verb, name], docker=["inspect", "--type", "container", "--format", "{{.Id}}", name], take=printed
    )


def inspect(verb, args):
    """Run `docker inspect` on the container that runs a feature."""
    at = name_index(args, *INSPECT_OPTIONS)
    rest = args[at + 1 :]
    if name_index(rest, *INSPECT_OPTIONS) < len(rest):
        raise usage(verb, "takes one feature name")
    return through_docker(verb, args, at)


def execute(verb, args):
    """Run `docker exec` in the container that runs a feature."""
    at = name_index(args, *EXEC_OPTIONS)
    if len(args) < at + 2:
        raise usage(verb, "needs a feature name and a command")
    return through_docker(verb, args, at)


def through_docker(verb, args, at):
    """Become the docker command, with the feature's name at `at` replaced by its container's."""
    name, lines = one_name(verb, args[at : at + 1]), []
    code = ask(["resolve", name], docker=[verb, *args], take=lines.append)
    if code == 0:
        become_docker([verb, *args[:at], b"".join(lines).decode() or name, *args[at + 1 :]])
    return code


def state(verb, args):
    """Report the state or the health of a container, or print the feature's state."""
    if not args or (len(args) == 1 and verb != "state"):
        raise usage(verb, "needs more arguments")
    name, direction, owner, *more = [*args, "", ""][: max(3, len(args))]
    one_name(verb, [name])
    if direction in ("healthy", "unhealthy"):
        reason = " ".join(" ".join([owner, *more]).split())[:REASON_MAX].encode(errors="replace").decode()
        if bool(reason) != (direction == "unhealthy"):
            raise usage(verb, "healthy takes no reason, and unhealthy needs one")
        return ask(["state", name, direction, reason], [HOST_SOCK, CONTAINER_SOCK], bound_s=STATE_S_MAX)
    if direction not in ("up", "down", "") or owner not in ("local", "kube", "") or more:
        raise usage(verb, f"invalid state {shown(' '.join(args[1:]))}")
    request, socks = ["state", name, direction, owner], [HOST_SOCK, CONTAINER_SOCK]
    if not direction:
        return ask(request, socks, take=printed)
    # Without an owner the daemon asks Docker which container this is; until then it may be Kubernetes'.
    if direction == "up" and owner != "local":
        return wait_for(request, socks)
    try:
        return ask(request, socks, bound_s=STATE_S_MAX)
    except ClientError as failure:
        # A local container starts without permission, and Docker sees its end too.
        if failure.code not in (UNAVAILABLE, TIMED_OUT):
            raise
        say(sys.stderr, f"container: {str(failure).partition(';')[0]}; continued without it".encode())
        return 0


def container_state(program, args):
    """Run `container_state`: report as `container state` does."""
    return show_usage([program]) if asks_help(args) else state(program, args)


def cluster(program, args):
    """Run `kube_join` or `kube_reset`."""
    if asks_help(args):
        return show_usage([program])
    if args and (args != ["-f"] or program == "kube_reset"):
        raise usage(program, f"unknown argument {shown(' '.join(args))}")
    return ask(["reset"] if program == "kube_reset" else ["join", str(len(args))], bound_s=JOIN_S_MAX)


def docker_front(_program, args):
    """Become docker, with features' names replaced."""
    import docker_front as front

    return front.run(args)


VERBS = {
    "start": start,
    "stop": stop,
    "kill": kill,
    "wait": wait,
    "unit-ended": unit_ended,
    "id": identify,
    "inspect": inspect,
    "exec": execute,
    "state": state,
}
PROGRAMS = {
    "container_state": container_state,
    "docker_front": docker_front,
    "kube_join": cluster,
    "kube_reset": cluster,
}


# The command line.


def options(verb, args, valued):
    """Return the values of the one option, in its spellings `valued`, and the other arguments."""
    values, rest, queue = [], [], list(args)
    while queue:
        arg = queue.pop(0)
        if arg == "--":
            return values, rest + queue
        if not arg.startswith("-"):
            rest.append(arg)
            continue
        cut = len(arg.partition("=")[0]) if arg.startswith("--") else 2
        if arg[:cut] not in valued:
            raise usage(verb, f"unknown option {shown(arg)}")
        if len(arg) == cut and not queue:
            raise usage(verb, f"{arg} needs a value")
        values.append(queue.pop(0) if len(arg) == cut else arg[cut:].lstrip("="))
    return values, rest


def name_index(args, valued, switches):
    """Return the index of docker's first argument that is neither an option nor the value of one.

    `valued` options take a value, attached or as the next argument; `switches` are letters that may precede
    a short one in the same argument, as in -itu root.
    """
    at = 0
    while at < len(args):
        arg = args[at]
        if arg == "--":
            return at + 1
        if not arg.startswith("-") or arg == "-":
            return at
        at += 2 if "-" + arg[1:].lstrip(switches) in valued else 1
    return at


def one_name(verb, rest):
    """Return the one argument, if it is a valid feature name, which docker and paths take literally."""
    if len(rest) != 1:
        raise usage(verb, "takes one feature name")
    base, at, asic = rest[0].partition("@")
    letters = base.replace("-", "").replace("_", "")
    good = letters.isalnum() and base.isascii() and base.islower() and base[0].isalpha() and len(base) <= 63
    if not good or (at and not (asic.isdigit() and asic.isascii() and len(asic) <= 3)):
        raise usage(verb, f"invalid feature name {shown(rest[0])}; use a name such as snmp or bgp@0")
    return rest[0]


def asks_help(args):
    """Return whether an argument asks for help."""
    return "--help" in args or "-h" in args


def show_usage(names):
    """Print the usage of these commands; return exit code 0."""
    printed("usage: {}".format("\n       ".join(FORMS[name] for name in names)).encode())
    return 0


def usage(verb, problem):
    """Return the error for an invalid command line, with the form to type."""
    line = f"{problem}; type: {FORMS[verb]}"
    return ClientError(USAGE, f"{verb}: {line}" if verb in VERBS else line)


def shown(text):
    """Return user input shortened and escaped for one line."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def printable(path):
    """Return a path for a message."""
    return path.decode(errors="replace") if isinstance(path, bytes) else path


def say(stream, line):
    """Write one line at once; return whether that was possible. A closed stream is None.

    What a verb did does not become a failure because its words were not read, or their disk is full.
    """
    try:
        if stream is not None:
            stream.buffer.write(line + b"\n")
            stream.buffer.flush()
            return True
    except OSError:
        pass
    return False


def printed(line):
    """Print a line that was asked for. Raises ClientError."""
    if not say(sys.stdout, line):
        raise ClientError(FAILED, "standard output cannot be written; see where it goes")


# Requests.


def ask(request, socks=(HOST_SOCK,), bound_s=VERB_S_MAX, docker=None, take=None):
    """Ask until there is a result, and return it. Output is printed, or given to `take` line by line.

    With `docker`, this process becomes that docker command where no daemon runs; without, AbsentError is raised.
    """
    begin, met, busy = clock(), False, ""
    cut_off, seen = begin, begin - UNREACHABLE_S
    while True:
        sock, there = connect(socks)
        code, heard, reply = (
            converse(sock, request, begin + bound_s, take) if sock else (None, False, Reply())
        )
        if code is not None:
            return code
        met, busy, now = met or heard, reply.busy or busy, clock()
        runs = not there and now >= begin + FIRST_CONTACT_S and running_daemon()
        if runs:
            seen = now
        else:
            cut_off = now  # from the next sight of the lock on
        awaited = there or runs or may_return(seen, now)
        limit_s = bound_s if awaited or met else FIRST_CONTACT_S
        if now >= begin + limit_s or now >= cut_off + UNREACHABLE_S:
            break
        pause(min(LOOK_S if awaited and not there else reply.again_s, begin + bound_s - now))
    subject = "kubernetes" if request[0] in ("join", "reset") else request[1]
    if there or met:
        raise unanswered(subject, min(bound_s, round(now - begin)), there or runs, busy, changes=take is None)
    if runs:
        raise unreachable(subject, socks, runs)
    if docker is None:
        raise AbsentError(subject)
    if docker[0] in ("stop", "kill"):
        return end_without_daemon(docker)
    only_if_local(subject)
    if take is None:
        say_docker(docker)
    return become_docker(docker)


def unanswered(subject, waited_s, runs, busy, changes):
    """Return the error for a daemon that has not answered in time. What it does with the request is not known."""
    what = f"no answer from kubesyncd within {waited_s} s{f' ({busy})' if busy else ''}"
    if changes:
        what += ", so it may not be done"
    fix = "see systemctl status kubesyncd, then ask again"
    return ClientError(TIMED_OUT if runs else UNAVAILABLE, f"{subject}: {what}; {fix}")


def unreachable(subject, socks, pid):
    """Return the error for a daemon that runs, or may run where its `pid` is -1, and whose sockets are gone."""
    what = "kubesyncd runs, but its socket"
    if pid < 0:
        why = f"as {printable(LOCKS)} does not tell who holds its lock"
        what = f"it is not known whether kubesyncd runs, {why}, and its socket"
    line = f"{subject}: {what} {printable(socks[0])} is gone or closed; run systemctl restart kubesyncd"
    return ClientError(UNAVAILABLE, line)


def wait_for(request, socks):
    """Ask, and wait without a limit: as a shell, or in Python where there is none.

    A daemon that fails during its start may be cut off from its sockets for a while, and `wait` then uses docker: for
    `wait` the daemon has been reached only when it has answered. A lock that was seen is awaited as `ask` does. For
    `state` a connection is enough, as docker cannot replace it.
    """
    shells = [shell for shell in SHELLS if posix.access(shell, posix.X_OK)]
    if not shells:
        return ask(request, socks, bound_s=FOREVER_S)
    asked, met = int(posix.environ.get(ASKED, b"0")), MET in posix.environ
    begin = clock()
    seen = int(posix.environ[SEEN]) if SEEN in posix.environ else begin - UNREACHABLE_S
    sock, there = connect(socks)
    if not there and gone():
        raise AbsentError(request[1])
    while not (there or met):
        now = clock()
        if now >= begin + FIRST_CONTACT_S or may_return(seen, now):
            if running_daemon():
                posix.environ[SEEN] = b"%d" % now
            elif not may_return(seen, now):
                raise AbsentError(request[1])
            break
        pause()
        sock, there = connect(socks)
    if sock and send(sock, request):
        sock.settimeout(None)
        posix.dup2(sock.fileno(), 0)
    else:
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY), 0)
    posix.set_inheritable(0, True)
    delay_s = jitter() * min(0.2 * 2**asked, 1.6)
    again = [f"{delay_s:.3f}", sys.executable or "/usr/bin/python3", "-IS", *sys.argv]
    posix.environ[ASKED] = b"%d" % min(asked + 1, 9)
    if there and request[0] == "state":
        posix.environ[MET] = b"1"
    posix.environ[WAITER_ENV] = WAITER.encode()
    become(shells, ["sh", "-c", 'eval "$KUBESYNCD_WAITER"', "container", *again])
    raise ClientError(FAILED, f"{request[1]}: {shells[0]} cannot be run; repair it")


def connect(socks):
    """Return a connection to the first of `socks` that exists (or None), and whether the daemon is present."""
    until = clock() + SETTLING_S
    while True:
        try:
            return connect_once(socks)
        except PermissionError as denied:
            if clock() >= until:
                line = f"{printable(denied.filename)}: permission denied; use sudo, or join its group"
                raise ClientError(NOT_ALLOWED, line) from None
        pause()


def connect_once(socks):
    """Connect, as `connect` does. Raises PermissionError, with the socket's path as its filename."""
    for path in socks:
        sock = socket(AF_UNIX, SOCK_STREAM)
        sock.settimeout(FIRST_CONTACT_S)
        try:
            sock.connect(path)
            return sock, True
        except FileNotFoundError:
            continue
        except (BlockingIOError, timeout):
            return None, True  # the daemon's queue of connections is full
        except PermissionError as denied:
            denied.filename = path
            raise
        except OSError:
            break
    return None, False


def send(sock, request):
    """Send the request; return whether all of it was sent."""
    try:
        sock.sendall("\0".join(["1", *request]).encode() + b"\n")
        return True
    except (ConnectionError, timeout):
        return False


class Reply:
    """What a daemon has said, line by line. Its output counts once the result has arrived: others ask again."""

    def __init__(self):
        self.lines, self.size, self.status = [], 0, b""
        self.busy, self.again_s = "", AGAIN_S

    def add(self, line):
        """Take a line; return the exit code where it is the result."""
        kind, text = line[:2], line[2:]
        # As in the daemon's own reader: Python converts no number of thousands of digits.
        if kind == b"R " and text.isdigit() and len(text) <= 3 and int(text) <= 255:
            return int(text)
        if kind == b"S ":
            self.status = text
            show_status(text)
        elif kind == b"A ":
            self.busy, self.again_s = self.status.decode(errors="replace"), seconds(text)
        elif kind in (b"O ", b"E "):
            self.size += len(line)
            self.lines.append(line)
        return None

    def tell(self, take):
        """Print the output, or give it to `take`."""
        for line in self.lines:
            if line[:2] == b"E ":
                say(sys.stderr, line[2:])
            else:
                take(line[2:]) if take else say(sys.stdout, line[2:])


def converse(sock, request, until, take):
    """Return the result of one request, whether the daemon has read the request, and its whole Reply.

    A result of None: the stream has ended without one, so ask again. The kernel resets a request that the daemon has
    not read; where the stream just ends, or time is up, it was read. A daemon at its limits may answer unasked.
    """
    rest, heard, reply = b"", False, Reply()
    send(sock, request)
    while reply.size <= REPLY_MAX and len(rest) <= REPLY_LINE_MAX:
        try:
            chunk = receive(sock, until)
        except ConnectionError:
            break
        heard = True
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            code = reply.add(line)
            if code is not None:
                reply.tell(take)
                return code, True, reply
        if not chunk:
            break
    return None, heard, reply


def seconds(text):
    """Return the seconds that a busy daemon asks a client to wait."""
    try:
        return min(max(AGAIN_S, float(text[:10])), AGAIN_S_MAX)
    except ValueError:
        return AGAIN_S


def receive(sock, until):
    """Read some bytes; none when the stream has ended or time is up. Raises ConnectionError."""
    try:
        sock.settimeout(min(max(until - clock(), 0.001), RECV_S_MAX))
        return sock.recv(REPLY_LINE_MAX)
    except timeout:
        return b""


def show_status(text):
    """Pass a status line to systemd."""
    if b"NOTIFY_SOCKET" in posix.environ:
        command = [b"systemd-notify", b"--status=" + text]
        try:
            posix.waitpid(posix.posix_spawnp(command[0], command, posix.environ), 0)
        except OSError:
            return  # a status that cannot be shown must not fail the command


# Absent daemon.


def running_daemon():
    """Return the lock_holder(): a daemon whose sockets take no connection. Ask it to look at them."""
    pid = lock_holder()
    if pid > 0:
        try:
            posix.kill(pid, LOOK)
        except OSError:
            return pid  # not allowed to this user; the daemon looks by itself, a little later
    return pid


def may_return(seen, now):
    """Return whether a daemon whose lock was `seen` then, and is not now, may have ended to be started again."""
    return now < seen + UNREACHABLE_S and not gone()


def lock_holder():
    """Return the process that holds the daemon's lock on a folder of its; 0 without one, -1 where that is not known."""
    for folder in (STATE_DIR, RUN_DIR):
        try:
            at = posix.stat(folder)
        except OSError:
            continue
        # Any user could lock a folder that all may open: there, root's lock counts, and one's own.
        private = not at.st_mode & 0o044
        try:
            for pid in locked_by(at):
                if private or owner_of(pid) in (0, posix.geteuid()):
                    return pid or -1
        except (OSError, ValueError):
            return -1
    return 0


def locked_by(at):
    """Return the processes that hold a lock on the file with this stat. Raises OSError, ValueError."""
    place = b"%02x:%02x:%d" % (posix.major(at.st_dev), posix.minor(at.st_dev), at.st_ino)
    with open(LOCKS, "rb") as file:
        # 1: FLOCK ADVISORY WRITE 812 00:1a:5678 0 EOF
        lines = [line.split() for line in file]
    return [int(words[4]) for words in lines if words[1:2] == [b"FLOCK"] and words[5:6] == [place]]


def owner_of(pid):
    """Return the user of a process; -1 where it has ended: a daemon holds its lock itself. Raises OSError."""
    try:
        return posix.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return -1


def say_docker(arguments):
    """Say that docker does what was asked of the daemon; where nothing reads that, docker does it all the same."""
    import select

    reader = select.poll()
    reader.register(2, select.POLLOUT)
    if reader.poll(0):
        say(sys.stderr, used(arguments).encode())


def used(arguments):
    """Return the line that says so."""
    return f"container: {arguments[-1]}: kubesyncd is not running; docker {arguments[0]} is used"


def only_if_local(name):
    """Raise AbsentError where Kubernetes runs, or should run, this feature, and where that is not known.

    Docker takes the name for the local container. It could start that one beside Kubernetes', describe it in place of
    the feature's, and report an end that is none.
    """
    try:
        of_kube = kube_entry(name)[0]
    except LostError as lost:
        raise AbsentError(name, str(lost)) from None
    if of_kube:
        raise AbsentError(name)


def end_without_daemon(docker):
    """End the local container of a feature by docker stop or docker kill: its unit goes down.

    An admitted kube container is left: the kubelet would start it again, and the daemon admit it. The code tells where
    it runs on. Raises AbsentError where the ledger is lost: whose the feature is is not known then.
    """
    name = docker[-1]
    try:
        of_kube, grant = kube_entry(name)
    except LostError as lost:
        raise AbsentError(name, str(lost)) from None
    if not of_kube:
        say_docker(docker)
        return become_docker(docker)
    kept = f"container: {AbsentError(name, 'Kubernetes runs its container', 'that one runs on')}"
    pass_the_front_by()
    become(SHELLS, ["sh", "-c", DOCKER_END, "container", name, grant, used(docker), kept, *docker[:-1]])
    raise ClientError(UNAVAILABLE, f"{name}: no shell to run docker in; install /bin/sh")


def granted(name):
    """Return the ID of the kube container that owns the feature by the ledger; empty without one."""
    try:
        return kube_entry(name)[1]
    except LostError:
        return ""


def kube_entry(name):
    """Return whether Kubernetes runs, or should run, this feature by the ledger, and the container that it admitted.

    Raises LostError.
    """
    config, record = remembered(name)
    grant = str(record.get("grant") or "")
    local_only = config.get("always_local") or config.get("local_only")
    return bool(grant) or (config.get("set_owner") == "kube" and not local_only), grant


def remembered(name):
    """Return the ledger's config and record of a feature; both are empty where no daemon has known it since boot.

    Raises LostError.
    """
    import json  # costs as much as the whole usual path

    where = printable(LEDGER)
    try:
        with open(LEDGER, "rb") as ledger:
            tree = json.load(ledger)
        if tree["version"] != LEDGER_VERSION:
            raise LostError(f"{where} is of another version")
        features = {**tree["features"]}
        if name in features:
            return {**features[name]["config"]}, {**features[name]["record"]}
        lost = tree.get("lost")
    except FileNotFoundError:
        doubt = doubt_of_first_start(json)
        if doubt:
            raise LostError(f"{where} is missing, {doubt}") from None
        return {}, {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        # In memory: a daemon has written it since boot.
        raise LostError(f"{where} cannot be read") from None
    if lost:
        raise LostError(f"{where} was lost since boot, and is without {name}")
    return {}, {}


def doubt_of_first_start(json):
    """Return why a missing ledger may be no first start of the boot; empty where no daemon has written one in it."""
    file = MARK
    try:
        with open(file, "rb") as mark:
            marked = json.load(mark)["boot_id"]
        if isinstance(marked, str):
            file = BOOT_ID
            with open(file, "rb") as boot_id:
                boot = boot_id.read().decode().strip()
            if boot:
                return "although this boot has had it" if marked == boot else ""
    except FileNotFoundError:
        if file is MARK:
            return ""
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    return f"and it is not known whether this boot has had it, as {printable(file)} cannot be read"


def gone():
    """Return whether the package is being removed, or has been."""
    return posix.access(GONE, posix.F_OK)


def become_docker(arguments):
    """Become docker, from PATH, with unchanged environment, terminal and exit code. Never returns."""
    become([f"{folder}/docker" for folder in folders_past_the_front()], ["docker", *arguments])
    raise ClientError(UNAVAILABLE, "docker: not found in PATH; install docker or set PATH")


def pass_the_front_by():
    """Let a shell that this process becomes find Docker's own command.

    A package that is being removed takes its docker command away while the shells of its waiters begin docker.
    """
    posix.environ[b"PATH"] = ":".join(folders_past_the_front()).encode(errors="surrogateescape")


def folders_past_the_front():
    """Return the folders of PATH, without those in which our own command has docker's name."""
    path = posix.environ.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").decode(errors="surrogateescape")
    return [folder for folder in path.split(":") if folder and not is_front(f"{folder}/docker")]


def is_front(path):
    """Return whether this is a link to our own docker command, which would ask for the name once more."""
    try:
        return posix.readlink(path).endswith("/clients/docker")
    except OSError:
        return False


def become(programs, arguments):
    """Replace this process by the first of `programs` that can be run; return if none can."""
    for program in programs:
        try:
            posix.execve(program, arguments, posix.environ)
        except OSError:
            continue


def clock():
    """Return monotonic seconds."""
    import time  # the interpreter has loaded it itself

    return time.monotonic()


def jitter():
    """Return a factor from 0.5 to 1, so that many waiters do not ask again at the same time."""
    return 0.5 + posix.urandom(1)[0] / 512


def pause(seconds=AGAIN_S):
    """Sleep for half of these seconds to all of them before asking again."""
    import time

    time.sleep(max(seconds, 0) * jitter())
