"""Our `show` commands under sonic-utilities: how they are typed; `kubesync` carries them out."""

# ruff: noqa: INP001 (it is loaded as a file)

import sys

# For this import alone: what else lies there is for our own programs, not for sonic-utilities.
OURS = "/usr/lib/kubesyncd/lib/python3.11/site-packages"
sys.path.append(OURS)
try:
    from kubesyncd.cli.plugins.show_kubesyncd import register  # noqa: F401
finally:
    sys.path.remove(OURS)
