"""Every test that docs/reliability.md names is there."""

from __future__ import annotations

import re

from tests.documents import ROOT

NAMED = re.compile(r"`((?:tests/)?[\w/]*\.py)?(?:::(\w+))?`")


def test_the_page_names_tests_that_exist():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    files = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}
    found, source = 0, ""
    for path, test in NAMED.findall(text):
        if path:
            file = ROOT / path if "/" in path else files[path]
            source = file.read_text(encoding="utf-8")
        if test:
            assert f"def {test}(" in source, f"{path}::{test}"
            found += 1
    assert found > 30
