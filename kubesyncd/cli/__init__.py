"""Start `kubesync`; import everything else on first use.

sonic-utilities import the plugins through this package, so it must import nothing itself.
"""

from __future__ import annotations


def main() -> None:
    """Run `kubesync` and end the process. Output that cannot be written ends the command, with one line."""
    import sys
    from typing import TextIO, cast

    from kubesyncd.cli.click_groups import Output, OutputError, end_without_output
    from kubesyncd.cli.root import root

    if sys.stdout is not None:
        sys.stdout = cast("TextIO", Output(sys.stdout))
    try:
        root.main(prog_name="kubesync")
    except OutputError as error:
        end_without_output(error)
