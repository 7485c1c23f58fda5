"""Check the name of this switch's Node, and read it from the kubelet's certificate.

Knows no file, no host, no client.
"""

from __future__ import annotations

from kubesyncd.core.labels import is_subdomain
from kubesyncd.core.text import quoted

# The kubelet also sets it as the value of the label kubernetes.io/hostname, which holds no more.
LENGTH_MAX = 63

_CERTIFIED = "system:node:"
# The names of a host that has not been given one yet.
_NOT_NAMED = frozenset({"", "(none)", "localhost", "localhost.localdomain"})


def certified_name(common_name: str) -> str:
    """Return the Node that a certificate of this common name is for; empty for any other certificate."""
    name = common_name.removeprefix(_CERTIFIED)
    return "" if name == common_name else name


def name_problem(name: str) -> str:
    """Return why a Node cannot have this name, with what to type; empty where it can."""
    fix = "correct it: config hostname NAME, or set [kube] node_name"
    if name in _NOT_NAMED:
        return f"this switch has no host name of its own yet ({quoted(name)}); {fix}"
    if len(name) > LENGTH_MAX or not is_subdomain(name):
        return (
            f"{quoted(name)} cannot be the name of a node: Kubernetes takes at most {LENGTH_MAX} lower-case "
            f"letters, digits, '-' and '.', with a letter or digit at both ends; {fix}"
        )
    return ""


def renamed(node: str, host: str) -> str:
    """Return what a joined switch's operator should know where its next join would be under another name, or empty."""
    if node == host:
        return ""
    return (
        f"the node is {quoted(node)} on the master, and this switch is now named {quoted(host)}; it goes on as "
        f"{node} until the kubelet is restarted, which then may not register; "
        f"to join under the new name: config kube join -f"
    )
