"""``docs/tutorial.md``, done from its beginning to its end."""

from __future__ import annotations

import contextlib
import glob
import io
import re
import shlex
from pathlib import Path

from recbole_vsid.cli import main
from tests.documents import blocks

# What a test adds to the commands of the page: the leaderboard trains in processes of its own, which takes its time.
SHORTER = {"leaderboard": ["--epochs=2"]}


def run_shell(text):
    """Run the lines of a block as a shell would, each through ``main``; return what they print."""
    printed = io.StringIO()
    for line in text.replace("\\\n", " ").splitlines():
        python, script, *words = shlex.split(line)
        assert (python, script) == ("python", "run_recbole_vsid.py"), f"the test cannot run {line!r}"
        arguments = [found for word in words for found in (glob.glob(word) if "*" in word else [word])]
        arguments += ["--num_threads=1", "--show_progress=false"] if words[0] != "prepare" else []
        with contextlib.redirect_stdout(printed):
            assert main([*arguments, *SHORTER.get(words[0], [])]) == 0, line
    return printed.getvalue()


def run_python(text, namespace):
    """Run a block in ``namespace``; return what it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, "docs/tutorial.md", "exec"), namespace)
    return printed.getvalue()


def plain_lines(text):
    """Lines without the frames of tables and with single blanks."""
    return [" ".join(re.sub("[\u2500-\u257f]", " ", line).split()) for line in text.splitlines()]


def test_the_tutorial():
    """Every block in order; what the page shows as output is among the lines that the block before it printed."""
    namespace, printed, done = {}, "", []
    for file, language, text in blocks("tutorial.md"):
        if language == "python":
            printed = run_python(text, namespace)
        elif language == "bash":
            printed = run_shell(text)
        elif language == "yaml":
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_text(text, encoding="utf-8")
        else:
            assert language == "text"
            for line in plain_lines(text):
                assert line in plain_lines(printed), f"the tutorial shows {line!r}, printed was:\n{printed}"
        done.append(language)
    assert done.count("bash") >= 6 and done.count("python") >= 7
    recommended = Path("saved").glob("VLSID-my-shop-seed2020-*/recommendations.csv")
    assert len(next(recommended).read_text(encoding="utf-8").splitlines()) == 1 + 5 * 200
    assert Path("codes.html").is_file() and Path("comparison/leaderboard.html").is_file()
