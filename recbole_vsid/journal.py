"""Log and TensorBoard are for reading along: a place that takes no more of them never ends a run.

Where a write fails, the disk being full for instance, one line says so and nothing more is written there.
"""

from __future__ import annotations

import logging
import sys
import threading
from logging import getLogger

from torch.utils.tensorboard import SummaryWriter


class ForgivingWriter:
    """A ``SummaryWriter`` that gives up, with a warning, when its folder cannot be written to."""

    def __init__(self, writer: SummaryWriter):
        self._writer, self._given_up = writer, False
        _forgive_its_thread()

    def __getattr__(self, name):
        value = getattr(self._writer, name)
        return self._forgiving(value) if callable(value) else value

    def _forgiving(self, method):
        def call(*args, **kwargs):
            if self._given_up:
                return None
            try:
                return method(*args, **kwargs)
            except OSError as error:
                self._given_up = True
                reason = error.strerror or error
                getLogger().warning(
                    f"{self._writer.log_dir} cannot be written ({reason}); TensorBoard gets no more of this run"
                )

        return call


def _forgive_its_thread():
    """The error of TensorBoard's writing thread is raised again where the next value is written; once is enough."""
    earlier = threading.excepthook
    if getattr(earlier, "forgives_tensorboard", False):
        return

    def hook(args):
        of_tensorboard = type(args.thread).__module__.startswith("tensorboard.")
        if not (of_tensorboard and issubclass(args.exc_type, OSError)):
            earlier(args)

    hook.forgives_tensorboard = True
    threading.excepthook = hook


def forgive_log_files(logger: logging.Logger) -> None:
    """Let the log files of ``logger`` give up, with one line on the standard error, when they cannot be written to."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _Forgiving(handler)


class _Forgiving:
    """Stands for the ``handleError`` of a log file, which would print a traceback for each record."""

    def __init__(self, handler):
        self.handler, self.told = handler, False

    def __call__(self, record):
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            type(self.handler).handleError(self.handler, record)
        elif not self.told:
            self.told = True
            print(
                f"warning: {self.handler.baseFilename} cannot be written ({error.strerror or error})", file=sys.stderr
            )
