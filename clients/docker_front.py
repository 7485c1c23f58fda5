"""Run docker, with a kube container's ID in place of the name of the feature that Kubernetes runs in it.

Only commands that look into a container are changed: those that make, start, end or remove one mean the container that
has this very name. Never fails by itself: what is not known within ANSWER_S goes to docker as it was typed.
"""

import posix
from _socket import AF_UNIX, SOCK_STREAM, socket

import client

ANSWER_S = 1  # for all names of one command
REPLY_MAX = 4096
NOT_FOUND = 127  # as a shell says it of a command that it cannot find
CONFIG_MAX = 1 << 20
HERE = ("unix:///var/run/docker.sock", "unix:///run/docker.sock")  # the engine that the daemon knows

# docker's commands: the options that take a value, its short ones that take none, and which arguments name a container.
FIRST, EVERY, IN_PATHS = range(3)
COMMANDS = {
    "attach": (("--detach-keys",), "", FIRST),
    "cp": ((), "aLq", IN_PATHS),
    "diff": ((), "", FIRST),
    "exec": (*client.EXEC_OPTIONS, FIRST),
    "export": (("-o", "--output"), "", FIRST),
    "inspect": (*client.INSPECT_OPTIONS, EVERY),
    "logs": (("-n", "--tail", "--since", "--until"), "ft", FIRST),
    "port": ((), "", FIRST),
    "stats": (("--format",), "a", EVERY),
    "top": ((), "", FIRST),
}


def run(args):
    """Become docker with these arguments, in which names of features have been replaced. Returns an exit code."""
    try:
        changed = replaced(args, Names())
        if changed != args and context_elsewhere():
            changed = args
    except Exception:  # noqa: BLE001 - whatever it is, docker has to work
        changed = args
    docker = posix.environ.get(b"KUBESYNCD_DOCKER", b"/usr/bin/docker")
    client.become([docker], ["docker", *changed])
    raise client.ClientError(NOT_FOUND, f"{client.printable(docker)} cannot be run; reinstall docker")


def replaced(args, container_of):
    """Return the arguments with each feature's name replaced by `container_of` of it."""
    at = command_index(args)
    if at is None or elsewhere():
        return args
    verb, at = args[at], at + 1
    valued, switches, named = COMMANDS[verb]
    rest = args[at:]
    if verb == "inspect" and any(arg == "--type" or arg.startswith("--type=") for arg in rest):
        # Unit scripts ask like this whether the container that they make exists; it has the name.
        return args
    found = list(positions(rest, valued, switches))
    for index in found[:1] if named == FIRST else found:
        name, colon, path = rest[index].partition(":") if named == IN_PATHS else (rest[index], "", "")
        if named != IN_PATHS or colon:
            rest[index] = (container_of(name) or name) + colon + path
    return [*args[:at], *rest]


def command_index(args):
    """Return the index of docker's command, if it is one of COMMANDS, and for this machine's engine; else None."""
    at = 0
    while at < len(args) and args[at].startswith("-"):
        if args[at] in ("-l", "--log-level"):
            at += 1
        elif not args[at].startswith(("-l", "--log-level=")) and args[at] not in ("-D", "--debug"):
            return None
        at += 1
    if args[at : at + 1] == ["container"]:
        at += 1
    return at if at < len(args) and args[at] in COMMANDS else None


def elsewhere():
    """Return whether the environment names another engine than this machine's."""
    host, context = posix.environ.get(b"DOCKER_HOST", b""), posix.environ.get(b"DOCKER_CONTEXT", b"")
    return (host != b"" and host.decode(errors="replace") not in HERE) or context not in (b"", b"default")


def context_elsewhere():
    """Return whether `docker context use` has chosen another engine; docker reads it where the environment has none.

    Raises ValueError if the configuration is not JSON.
    """
    if posix.environ.get(b"DOCKER_HOST") or posix.environ.get(b"DOCKER_CONTEXT"):
        return False
    folder = posix.environ.get(b"DOCKER_CONFIG") or posix.environ.get(b"HOME", b"") + b"/.docker"
    try:
        file = posix.open(folder + b"/config.json", posix.O_RDONLY | posix.O_NONBLOCK)
    except OSError:
        return False
    try:
        text = posix.read(file, CONFIG_MAX)
    finally:
        posix.close(file)
    if b"currentContext" not in text:
        return False
    import json  # only where a context is named: it takes longer than all else here

    return json.loads(text).get("currentContext") not in (None, "", "default")


def positions(args, valued, switches):
    """Yield the index of each argument that is neither an option nor the value of one."""
    at, options_end = 0, False
    while True:
        if not options_end:
            passed = client.name_index(args[at:], valued, switches)
            at += passed
            options_end = passed > 0 and args[at - 1] == "--"
        if at >= len(args):
            return
        yield at
        at += 1


class Names:
    """Tells of each feature's name the kube container that runs it; empty where none does, and where none is known."""

    def __init__(self):
        self.until = client.clock() + ANSWER_S

    def __call__(self, name):
        """Return the container's ID, or an empty string."""
        try:
            client.one_name("inspect", [name])
        except client.ClientError:
            return ""
        try:
            return self.asked(name)
        except OSError:  # also a timeout
            return ""

    def asked(self, name):
        """Ask the daemon. Raises OSError."""
        reply = b""
        sock = socket(AF_UNIX, SOCK_STREAM)
        sock.settimeout(self.left_s())
        sock.connect(client.HOST_SOCK)
        sock.sendall(f"1\0resolve\0{name}\0kube\n".encode())
        while b"\nR " not in b"\n" + reply or not reply.endswith(b"\n"):
            sock.settimeout(self.left_s())
            more = sock.recv(REPLY_MAX)
            if not more or len(reply) > REPLY_MAX:
                return ""
            reply += more
        lines = reply.decode(errors="replace").split("\n")
        found = next((line[2:] for line in lines if line.startswith("O ")), "")
        return found if "R 0" in lines and found.isalnum() else ""

    def left_s(self):
        """Return the seconds that are left to ask; more than none."""
        return max(self.until - client.clock(), 0.001)
