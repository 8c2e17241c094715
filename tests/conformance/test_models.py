"""Every model of the package passes the same suite."""

from __future__ import annotations

from recbole_vsid.registry import MODELS
from tests.conformance.model_suite import ModelConformance


class TestVLSID(ModelConformance):
    model = "VLSID"


# So few users are soon known by heart, unless an encoder sees little of their histories.
FEW_USERS = {"epochs": 25, "stopping_step": 25, "train_batch_size": 64, "MAX_ITEM_LIST_LENGTH": 3}
FOR_FIVE_ITEMS = {"content": ["tfidf", "cooccurrence"]}


class TestTIGER(ModelConformance):
    model = "TIGER"
    tiny = {"sid_vocab_size": 2, **FOR_FIVE_ITEMS}
    learns = FEW_USERS


class TestReSID(ModelConformance):
    model = "ReSID"
    tiny = {"sid_branches": [2, 2], **FOR_FIVE_ITEMS}
    learns = FEW_USERS


class TestDIGER(ModelConformance):
    model = "DIGER"
    tiny = {"sid_vocab_size": 2, **FOR_FIVE_ITEMS}
    learns = FEW_USERS


class TestIntRR(ModelConformance):
    model = "IntRR"
    learns = FEW_USERS


class TestIntRRFlat(ModelConformance):
    model = "IntRRFlat"
    learns = FEW_USERS


class TestSASTrie(ModelConformance):
    model = "SASTrie"
    learns = {**FEW_USERS, "train_batch_size": 128}


class TestMARIUS(ModelConformance):
    model = "MARIUS"
    learns = FEW_USERS


def test_no_model_is_left_out():
    assert {cls.model for cls in ModelConformance.__subclasses__()} == set(MODELS)
