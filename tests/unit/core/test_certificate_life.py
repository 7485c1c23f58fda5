"""Check when a certificate should have been renewed."""

from __future__ import annotations

import pytest

from kubesyncd.core.certificate_life import CertificateLife

YEAR, MONTH, DAY, HOUR = 365 * 86_400.0, 30 * 86_400.0, 86_400.0, 3600.0


@pytest.mark.parametrize("lifetime", [YEAR, MONTH, DAY, HOUR])
def test_a_certificate_is_late_once_nine_tenths_of_its_life_are_over(lifetime: float) -> None:
    life = CertificateLife(1e9, 1e9 + lifetime)
    assert not life.is_late(1e9)
    assert not life.is_late(1e9 + lifetime * 0.899)
    assert life.is_late(1e9 + lifetime * 0.901)
    assert life.is_late(1e9 + lifetime)


def test_a_certificate_is_late_at_the_very_moment_that_is_told() -> None:
    life = CertificateLife(0.0, 1000.0)
    assert life.renewed_by == 900.0
    assert life.is_late(900.0)
    assert not life.is_late(899.9)


def test_a_certificate_that_ends_before_it_begins_is_late_once_it_has_ended() -> None:
    assert CertificateLife(2e9, 1e9).renewed_by == 1e9
