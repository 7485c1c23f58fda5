"""Run one attack of a taken-over container or of a user's account, and report it as JSON.

    python3 -IS attacker.py ATTACK SOCKET FILE [ARGUMENT...]

FILE gets what the daemon answered. Standard library only: it runs inside containers, where nothing else is.
"""

import json
import os
import resource
import socket
import sys
import time

PATIENCE_S = 180.0
# For the file that ends an attack: only a test that has failed does not make it.
END_S_MAX = 600.0


def ask(path, request):
    """The exit code that the daemon answers; None where it just closes the connection."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            # No limit of time yet, as in the client: with one, a full backlog would be an error instead of a wait.
            link.connect(path)
            link.settimeout(PATIENCE_S)
            try:
                link.sendall(request)
            except OSError:
                return None
            reply = b"".join(iter(lambda: link.recv(65536), b"")).decode()
    except ConnectionError:
        return None
    except OSError as error:
        return error.strerror
    last = reply.splitlines()[-1:] or ["R -"]
    return int(last[0][2:]) if last[0][2:].isdigit() else None


def say(path, *words):
    """One well-formed request."""
    return ask(path, b"\0".join([b"1", *(w.encode() for w in words)]) + b"\n")


def requests(path, *texts):
    """Each request, its words divided by blanks."""
    return {text: say(path, *text.split(" ")) for text in texts}


def malformed(path):
    """Invalid requests."""
    tries = {
        "one MiB without an end": b"x" * (1 << 20),
        "a line of 5000": b"1\0state\0snmp\0" + b"x" * 5000 + b"\n",
        "half a line": b"1\0state\0sn",
        "NUL": b"\0" * 4000 + b"\n",
        "no UTF-8": b"1\0state\0\xff\xfe\0up\n",
        "a version of the future": b"2\0state\0snmp\0up\n",
        "HTTP": b"GET / HTTP/1.1\r\n\r\n",
        "many arguments": b"1" + b"\0a" * 2000 + b"\n",
        "a path": b"1\0state\0../../etc/passwd\0up\n",
        "an escape": b"1\0state\0\x1b[2Jsnmp\0up\n",
        "a full-width name": "1\0state\0ｓnmp\0up\n".encode(),
    }
    return {what: ask(path, data) for what, data in tries.items()}


def flood(path, name, seconds):
    """As many requests as it takes, one after the other; how many were answered."""
    until, answered = time.monotonic() + float(seconds), 0
    while time.monotonic() < until:
        answered += say(path, "state", name, "up", "local") == 0
    return {"answered": answered}


def idle(path, number, end):
    """So many connections that say nothing, held open as long as the daemon lets them.

    `end`: for so many seconds, or until there is a file of this name.
    """
    wanted, (_, hard) = int(number), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted + 100, hard), hard))
    links = []
    for _ in range(wanted):
        link = socket.socket(socket.AF_UNIX)
        # No limit of time: with one, a full backlog would be an error instead of a wait.
        link.connect(path)
        links.append(link)
    if end.isdecimal():
        time.sleep(int(end))
    else:
        until = time.monotonic() + END_S_MAX
        while not os.path.exists(end) and time.monotonic() < until:
            time.sleep(0.05)
    return {"opened": len(links)}


def vanish(path, *words):
    """Connect, leave the connection to a child, and end before the daemon reads the peer's identity.

    FILE.gone is there as soon as it is.
    """
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(PATIENCE_S)
    told, tell = os.pipe()
    if os.fork() == 0:
        link.connect(path)
        if os.fork():
            os._exit(0)
        time.sleep(0.5)
        try:
            link.sendall(b"\0".join([b"1", *(w.encode() for w in words)]) + b"\n")
            reply = b"".join(iter(lambda: link.recv(65536), b""))
        except OSError:
            reply = b""
        os.write(tell, reply or b"-")
        os._exit(0)
    os.wait()
    with open(f"{sys.argv[3]}.gone", "w", encoding="ascii"):
        pass
    return {"answer": os.read(told, 65536).decode()}


ATTACKS = {"requests": requests, "malformed": malformed, "flood": flood, "idle": idle, "vanish": vanish}


def main():
    """The command line."""
    attack, path, file, *arguments = sys.argv[1:]
    found = ATTACKS[attack](path, *arguments)
    with open(f"{file}.new", "w", encoding="ascii") as told:
        json.dump(found, told)
    os.rename(f"{file}.new", file)


if __name__ == "__main__":
    main()
