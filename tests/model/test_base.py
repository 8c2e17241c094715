"""What a model has to define."""

from __future__ import annotations

import pytest

from recbole_vsid.model.base import GenerativeRecommender


def test_a_model_that_lacks_a_part_is_refused_by_its_name():
    parts = {"start_decoding": None, "train_loader": None}
    with pytest.raises(TypeError, match="Half.*hidden_matrices"):
        type("Half", (GenerativeRecommender,), parts)(None, None)
