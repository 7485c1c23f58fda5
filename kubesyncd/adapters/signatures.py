"""Verify a signature with the openssl program, which every SONiC image has.

The standard library has no ed25519, and another Python package would cost the daemon memory for a check that happens
once per release. Does not know the signed data.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from kubesyncd.ports import Unavailable
from kubesyncd.runtime.processes import run

if TYPE_CHECKING:
    from kubesyncd.ports import Claim

SERVICE = "openssl"
VERIFY_S = 10.0
# The head of an ed25519 public key in DER (RFC 8410); the key's 32 bytes follow.
_DER = bytes.fromhex("302a300506032b6570032100")


async def is_true(claim: Claim) -> bool:
    """Return whether the key has signed the message. Raises Unavailable where openssl cannot be run."""
    try:
        with tempfile.TemporaryDirectory(prefix="kubesync-") as name:
            folder = Path(name)
            for part, data in (("key", _DER + claim.key), ("sig", claim.signature), ("data", claim.message)):
                (folder / part).write_bytes(data)
            ended = await run(
                ("openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", f"{folder}/key",
                 "-rawin", "-in", f"{folder}/data", "-sigfile", f"{folder}/sig"),
                VERIFY_S,
                SERVICE,
            )  # fmt: skip
    except OSError as error:
        raise Unavailable(SERVICE, f"the signature cannot be checked: {error.strerror}") from error
    return ended.code == 0
