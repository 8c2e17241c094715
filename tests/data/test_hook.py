"""What the preprocessing hook says about its own cost."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from recbole_vsid.cli import main
from recbole_vsid.data.hook import peak_memory


def test_the_peak_of_a_process_is_its_own():
    """It grows with the memory that was used, stays when that is freed, and a large parent does not count."""
    megabytes, counting = 300, 8  # Linux sums pages per processor lazily: two readings may differ by some MB
    before = peak_memory()
    if before is None:
        pytest.skip("this system does not tell")
    used = np.ones((before + megabytes) * 125_000)  # more than the process has now, whatever it has freed
    peak = peak_memory()
    del used
    assert peak >= before + megabytes
    assert peak_memory() >= peak - counting
    command = "from recbole_vsid.data.hook import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    if sys.platform == "linux":
        assert int(child.stdout) < peak - megabytes / 2


@pytest.mark.parametrize(
    "text, told", [('{"i0": [0, "x"]}', "sid_file: t.json: item 'i0'"), (None, "sid_file='t.json'")]
)
def test_a_table_that_cannot_be_taken_names_its_setting(data_path, tmp_path, capsys, text, told):
    if text is not None:
        (tmp_path / "t.json").write_text(text)
    assert main(["tokenize", "--dataset=toy", f"--data_path={data_path}", "--sid_file=t.json", "--use_gpu=false"]) == 2
    assert f"error: {told}" in capsys.readouterr().err
