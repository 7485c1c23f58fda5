"""Register kubesyncd's `config` commands under sonic-utilities; `kubesync` carries them out."""

# ruff: noqa: INP001 (it is loaded as a file)

import sys

# For this import alone: the other packages there are for kubesyncd's programs, not for sonic-utilities.
OURS = "/usr/lib/kubesyncd/site-packages"
sys.path.append(OURS)
try:
    from kubesyncd.cli.plugins.config_kubesyncd import register  # noqa: F401
finally:
    sys.path.remove(OURS)
