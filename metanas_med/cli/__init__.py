"""The command ``metanas-med``: parse, call, show. Heavy imports stay inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import UserError
from ..stopping import Stopped, stops
from . import data, export, models, parts, studies, train, use
from .common import Commands, Parser, bad_cases_shown

#: what a full disk reports
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
#: what a lost network drive or a broken disk reports
_LOST = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENOTCONN)

#: the logger of progress lines, without the import of its room
_PROGRESS = "metanas_med.engine.progress"


class _Lines(logging.Formatter):
    """Log messages with their level; progress lines without."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return record.getMessage() if record.name == _PROGRESS else super().format(record)


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of one command: 0, or 2 with one or two lines on stderr for a mistake that the user can fix.

    A command that a signal stopped has the signal's code: 130 for Ctrl-C, 143 for SIGTERM. It says how to go on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path that the terminal cannot show must not end a run whose work is done
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, handlers=[handler])
    logging.getLogger(_PROGRESS).setLevel(logging.INFO)
    try:
        with stops(), bad_cases_shown():
            arguments.run(arguments, arguments.settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader closed the pipe; write nothing more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in _NO_ROOM:
            told = f"cannot write {error.filename or 'a file'}: {error.strerror}. Free some space."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            told = (
                f"cannot read or write {error.filename or 'a file'}: {error.strerror}. "
                "Change its permissions or choose another path."
            )
        elif error.errno in (errno.EISDIR, errno.ENOTDIR):
            told = f"cannot read or write {error.filename or 'a file'}: {error.strerror}. Remove it or choose another path."
        elif error.errno in _LOST:
            told = f"cannot read or write {error.filename or 'a file'}: {error.strerror}. Check the disk or the network drive."
        else:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
        print("stopped" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}", file=sys.stderr)
        if arguments.stopped:
            print(arguments.stopped(arguments, _typed(argv)), file=sys.stderr)
        return 128 + number
    return 0


def _typed(argv: Sequence[str] | None) -> str:
    """Return the command as it was typed, to be used again."""
    module = argv is None and os.path.basename(sys.argv[0]) == "__main__.py"
    program = ["python", "-m", "metanas_med.cli"] if module else ["metanas-med"]
    return shlex.join([*program, *(sys.argv[1:] if argv is None else argv)])


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser("metanas-med", description="Few-shot architecture search for medical segmentation, by meta-learning.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="show more log messages")
    commands = Commands(parser)
    for kind in (data, train, use, export, models, parts, studies):
        kind.add_commands(commands)
    return parser
