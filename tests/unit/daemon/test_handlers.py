"""Check the table of verbs."""

from __future__ import annotations

import pytest

from kubesyncd.api.messages import Reply, Request
from kubesyncd.daemon.handlers import one_table


async def answer(_: Request) -> Reply:
    return Reply()


def test_a_verb_has_one_handler() -> None:
    assert list(one_table([{"label": answer}, {"cluster": answer}])) == ["label", "cluster"]
    with pytest.raises(AssertionError, match="cluster"):
        one_table([{"label": answer, "cluster": answer}, {"cluster": answer}])
