"""What the tests of causal models are repeated for."""

from __future__ import annotations

import pytest

from tests.model.tiny_intrr import BACKBONES, TABLES


@pytest.fixture(params=TABLES)
def table(request):
    return TABLES[request.param]


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return request.param
