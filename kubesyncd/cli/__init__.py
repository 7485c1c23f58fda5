"""Start `kubesync`; import everything else on first use.

sonic-utilities import the plugins through this package, so it must import nothing itself.
"""

from __future__ import annotations


def main() -> None:
    """Run `kubesync` and end the process. Output that cannot be written ends the command, with one line."""
    from kubesyncd.cli.click_groups import end_without_output
    from kubesyncd.cli.root import root

    try:
        root.main(prog_name="kubesync")
    except OSError as error:
        end_without_output(error)
