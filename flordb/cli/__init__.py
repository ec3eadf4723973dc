"""The command line: one thin file a command. Data goes to stdout, all else to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 over budget or refused at the prompt, and
130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import importlib
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import click

import flordb
from flordb.errors import FlorError, FlorWarning

COMMANDS = (
    *("dataframe", "gc", "plan", "replay", "serve", "shell", "spool", "sql", "status", "sync"),
)
OVER_BUDGET = 3


class _Lazy(click.Group):
    """Imports a command's file when it is used, so that ``--help`` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"flordb.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="FlorDB: any expression you could have logged is a column you can SELECT.",
)
@click.version_option(flordb.__version__, prog_name="flordb")
def group() -> None:
    """The group of all commands."""


def main() -> None:
    """Run the command line and end the process with its exit code."""
    warnings.showwarning = _show_warning
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, _note_in(stopped))
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _note_in(stopped))
    try:
        code = _run()
    except BaseException:
        # What a signal interrupts may raise anything: a lock that was being taken, a query.
        if not stopped:
            raise
        code = 1
    sys.exit(128 + stopped[0] if stopped and code else code)


def _note_in(stopped: list[int]) -> Callable[[int, FrameType | None], None]:
    """A signal's handler: replays are stopped, and their workspaces removed."""

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        raise KeyboardInterrupt

    return stop


def _run() -> int:
    try:
        code = group.main(standalone_mode=False)
    except click.exceptions.Abort:
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except FlorError as error:
        return _failed(error)
    except OSError as error:
        click.echo(f"flordb: {error}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def _failed(error: FlorError) -> int:
    click.echo(f"flordb: {error}", err=True)
    return OVER_BUDGET if type(error).__name__ == "BudgetExceeded" else 1


def _show_warning(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
    """Warnings of flordb as plain lines on stderr; others as Python shows them."""
    if issubclass(category, FlorWarning):
        click.echo(f"flordb: {message}", err=True)
    else:
        text = warnings.formatwarning(message, category, *where[:2])
        click.echo(text, err=True, nl=False)
