"""Start `kubesync`; import everything else on first use.

sonic-utilities import the plugins through this package, so it must import nothing itself.
"""

from __future__ import annotations


def main() -> None:
    """Run `kubesync` and end the process."""
    from kubesyncd.cli.root import root

    root.main(prog_name="kubesync")
