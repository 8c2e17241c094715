"""Every model of the package passes the same suite."""

from __future__ import annotations

from recbole_vsid.registry import MODELS
from tests.conformance.model_suite import ModelConformance


class TestVLSID(ModelConformance):
    model = "VLSID"


def test_no_model_is_left_out():
    assert {cls.model for cls in ModelConformance.__subclasses__()} == set(MODELS)
