"""Begin `kubesync`; everything else is loaded when it is needed.

sonic-utilities import the plugins through this package too, so it must cost nothing.
"""

from __future__ import annotations


def main() -> None:
    """Run `kubesync` and end the process."""
    from kubesyncd.cli.root import root

    root.main(prog_name="kubesync")
