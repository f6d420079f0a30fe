"""What all commands share: output, errors to exit codes, and how a command is added.

A command is an entry of ``COMMANDS`` in ``cli/commands.py``: its one-line help, and a function or, with sub-commands,
an app, ``sub_app("what it does")`` with its functions under ``@app.command("name")``. Those of equimd stand in
``cli/<name>.py``; one of your own is added from outside the package (docs/development/extending.md).

The docstring is the help text. Its indented lines are printed as they stand, and it ends with an ``Examples:`` block
(a test holds every command to it)::

    def thing(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
        '''What it does, in a sentence.

        Examples:

            equimd thing runs/ethanol --num-epochs 10
        '''

What a command does stands in ``equimd/tasks``, in the function that ``equimd.thing`` is in Python, with its settings
in a class; ``@with_settings(Class)`` makes an option of each. The command hands them over and prints the result.
Commands do not catch errors, parse underscores or set exit codes for bad input; ``main`` does it for all of them: they
raise :mod:`equimd.errors` (``typer.BadParameter`` for what only the command line can get wrong), and ``--num_epochs``
is ``--num-epochs``. Torch, NumPy, ASE and the like are imported inside the function. Results go to stdout,
everything else to stderr through :func:`log`; with ``--json`` stdout holds one object, written by :func:`echo_json`.
A command that ends with another code than 0 of its own accord raises ``typer.Exit(code)``.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from equimd.errors import EXIT_INTERRUPTED, EXIT_MACHINE, EXIT_USAGE, EquimdError, EquimdWarning

HELP_WIDTH = 76  # columns of a line of an example, to which the help adds two
_USER_OS_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_USER_ERRNOS = (errno.ENAMETOOLONG, errno.ELOOP, errno.EROFS, errno.ENXIO, errno.ENODEV)
_FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def normalize_option(name: str) -> str:
    """Option names may be written with underscores: ``num_epochs`` is ``num-epochs``."""
    return name.replace("_", "-")


CONTEXT_SETTINGS: dict[str, Any] = {"token_normalize_func": normalize_option, "help_option_names": ["-h", "--help"]}


class _SubCommands(TyperGroup):
    """A group that lists its commands each with the whole first sentence of its help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        first = {name: (command.help or "").split("\n\n")[0] for name, command in self.commands.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in first.items()])


def new_app(help: str, **kwargs: Any) -> typer.Typer:
    """A typer app with the settings all of equimd's apps share."""
    kwargs = {
        "cls": _SubCommands,
        "add_completion": False,
        "no_args_is_help": True,
        "context_settings": CONTEXT_SETTINGS,
        **kwargs,
    }
    return typer.Typer(help=help, rich_markup_mode=None, pretty_exceptions_enable=False, **kwargs)


def sub_app(help: str) -> typer.Typer:
    """The app of a command that has sub-commands, such as ``equimd data``; one of them is enough."""
    app = new_app(help)
    app.callback()(lambda: None)
    app.info.help = help
    return app


def keep_indented(text: str) -> str:
    r"""Mark the indented paragraphs of a help text (with ``\b``) so that they are not re-wrapped; commands that are
    longer than a line go on in the next, so that they can be copied from it all the same."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        "\b\n" + "\n".join(map(_continued, p.splitlines()))
        if p and all(line.startswith("  ") for line in p.splitlines())
        else p
        for p in paragraphs
    )


def _continued(line: str) -> str:
    """A command, in several lines where it is long."""
    indent = line[: len(line) - len(line.lstrip())]
    words = re.split(r" (?=-)", line) if len(line) > HELP_WIDTH else [line]
    if any(len(word) > HELP_WIDTH - 4 for word in words[1:]) or len(words[0]) > HELP_WIDTH - 2:
        words = line.lstrip().split(" ")
        words[0] = indent + words[0]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) + 3 > HELP_WIDTH:
            lines[-1] += " \\"
            lines.append(f"{indent}    {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def log(message: str = "") -> None:
    """Print to stderr: progress, notes, anything that is not the result."""
    from equimd.terminal import say

    say(message, sys.stderr)


def show_how_to_look(folder: str | os.PathLike[str]) -> None:
    """The line that ends what commands say of a folder which ``equimd report`` can show."""
    log(f"look at it: equimd report {shlex.quote(os.fspath(folder))}")


def warn(message: str) -> None:
    """Print a warning to stderr."""
    log(f"warning: {message}")


@contextmanager
def shown_notices() -> Iterator[None]:
    """Print what the package notes and warns of, each in its own line on stderr, in whatever order it comes."""

    class Lines(logging.Handler):
        last = ""

        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if message != self.last:  # what is true of two models is said once
                (warn if record.levelno >= logging.WARNING else log)(message)
            self.last = message

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        warn(str(message))

    logger = logging.getLogger("equimd")
    before = logger.handlers, logger.propagate, logger.level
    logger.handlers, logger.propagate = [Lines()], False
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            for of_others in (DeprecationWarning, ResourceWarning):  # nothing that a user can do about
                warnings.simplefilter("ignore", of_others)
            warnings.simplefilter("always", EquimdWarning)
            warnings.showwarning = show
            yield
    finally:
        logger.handlers, logger.propagate = before[:2]
        logger.setLevel(before[2])


def echo_json(obj: dict[str, Any]) -> None:
    """Print ``obj`` as the one JSON object on stdout. What is not a finite number becomes null."""
    from equimd.files import plain

    print(json.dumps(plain(obj), allow_nan=False), flush=True)


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch (CPU or accelerator) ran out of memory; torch need not be imported for the answer."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def explain(error: BaseException) -> tuple[str, int] | None:
    """The message and exit code for an error that is not a fault of the program; None for one that is."""
    if isinstance(error, EquimdError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted", EXIT_INTERRUPTED
    if _is_out_of_memory(error):
        hint = "smaller batches (--batch-size-train, --batch-size-inference), fewer features, or float32"
        return f"out of memory; what was written is intact\n  try: {hint}", EXIT_MACHINE
    if isinstance(error, OSError):
        where = _shown_path(error.filename)
        if error.errno in _FULL_DISK or "No space left on device" in str(error):
            hint = "free some space, or write to another disk (--out); a training goes on with --resume"
            return f"{where}the disk is full; what was written is intact\n  try: {hint}", EXIT_MACHINE
        text = where + (error.strerror or str(error))
        users = isinstance(error, _USER_OS_ERRORS) or error.errno in _USER_ERRNOS
        return text, EXIT_USAGE if users else EXIT_MACHINE
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return "a name that is no text in UTF-8 cannot be written to a file\n  try: rename the file", EXIT_USAGE
    if isinstance(error, ValueError) and "embedded null byte" in str(error):
        return "a file name with a null byte in it", EXIT_USAGE
    return None


def _shown_path(path: object) -> str:
    """A path before a message; of a long one, its beginning."""
    text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
    return f"{text if len(text) < 300 else text[:120] + '...'}: " if text else ""


def printable_output() -> None:
    """Names that are no text in the terminal's encoding are printed escaped, and are no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def handle_errors() -> Iterator[None]:
    """Turn errors into one message on stderr and the exit code of the contract; ``main`` wraps every command in it.

    What :func:`explain` does not know is a fault of the program and keeps its traceback. With ``EQUIMD_DEBUG=1`` the
    traceback is printed before the message.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        explained = None if isinstance(error, BrokenPipeError) else explain(error)
        if explained is None:
            raise
        if os.environ.get("EQUIMD_DEBUG", "0") not in ("", "0"):
            traceback.print_exc()
        message, code = explained
        log(message if code == EXIT_INTERRUPTED else f"error: {message}")
        raise typer.Exit(code) from None
