"""Log and TensorBoard that cannot be written cost a line, not the run."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from recbole_vsid.journal import ForgivingWriter, forgive_log_files
from recbole_vsid.quick_start import run


class FullDisk:
    """A writer whose place is full from the third value on."""

    log_dir = "log_tensorboard/x"

    def __init__(self):
        self.calls = 0

    def add_scalar(self, name, value, step=0):
        self.calls += 1
        if self.calls > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return value

    add_hparams = add_scalar

    def add_text(self, text):
        raise TypeError("not an error of the disk")


def test_a_writer_gives_up_once(caplog):
    full = FullDisk()
    writer = ForgivingWriter(full)
    assert [writer.add_scalar("a", value) for value in range(6)] == [0, 1, None, None, None, None]
    assert full.calls == 3 and writer.log_dir == "log_tensorboard/x"
    assert caplog.messages == [
        "log_tensorboard/x cannot be written (No space left on device); TensorBoard gets no more of this run"
    ]
    with pytest.raises(TypeError):
        ForgivingWriter(FullDisk()).add_text(3)


def test_a_log_file_gives_up_once(tmp_path, capsys):
    logger = logging.Logger("of this test")
    handler = logging.FileHandler(tmp_path / "x.log")
    logger.addHandler(handler)
    forgive_log_files(logger)

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        flush = close = lambda self: None

    handler.stream.close()
    handler.stream = Full()
    for _ in range(3):
        logger.warning("words")
    assert capsys.readouterr().err == f"warning: {tmp_path / 'x.log'} cannot be written (No space left on device)\n"
    logger.warning("%d", "no number")  # a mistake in the program is told as ever
    assert "Logging error" in capsys.readouterr().err
    handler.close()


def test_a_run_whose_tensorboard_is_full_gives_the_same(small_settings, monkeypatch):
    settings = small_settings("TIGER", epochs=1)
    expected = run("TIGER", "toy", config_dict={**settings, "checkpoint_dir": "a"})["test_result"]
    monkeypatch.setattr("recbole.trainer.trainer.get_tensorboard", lambda logger: FullDisk())
    assert run("TIGER", "toy", config_dict=settings)["test_result"] == expected


def test_a_place_of_tensorboard_that_cannot_be_written_is_refused_before_any_work(small_settings):
    with open("log_tensorboard", "w") as file:
        file.write("mine")
    with pytest.raises(OSError, match="log_tensorboard.* cannot be written"):
        run("TIGER", "toy", config_dict=small_settings("TIGER"))
