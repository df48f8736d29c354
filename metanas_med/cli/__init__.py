"""The command ``metanas-med``: parse, call, show. Heavy imports stay inside the commands, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import UserError
from . import data, parts, studies, train, use
from .common import Commands, Parser, bad_cases_shown, interrupts_delivered


def main(argv: Sequence[str] | None = None) -> int:
    """Return the exit code of one command: 0, or 2 with one or two lines on stderr for a mistake that the user can fix."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a path that the terminal cannot show must not end a run whose work is done
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if arguments.verbose else logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    try:
        with interrupts_delivered(), bad_cases_shown():
            arguments.run(arguments, arguments.settings)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader closed the pipe; write nothing more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            told = f"cannot write {error.filename or 'a file'}: {error.strerror}. Free some space."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            told = (
                f"cannot read or write {error.filename or 'a file'}: {error.strerror}. "
                "Change its permissions or choose another path."
            )
        else:
            raise
        print(f"error: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = Parser("metanas-med", description="Few-shot architecture search for medical segmentation, by meta-learning.")
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="store_true", help="show more log messages")
    commands = Commands(parser)
    for kind in (data, train, use, parts, studies):
        kind.add_commands(commands)
    return parser
