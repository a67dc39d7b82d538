"""The application, and what becomes of its errors."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer

from parity.errors import BadInput
from parity.results import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_USAGE

app = typer.Typer(
    name="parity",
    help="Prove that a torch module and its JAX port are the same function: attention, or any pair of yours.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# The parser's own errors. Typer has begun to carry its own copy of click, so the class is found by name.
ClickException: Any = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. A crash of our own exits 3: 1 means a mismatch here, and typer would exit 1."""
    # A job that is cancelled writes its reports as one that is interrupted.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(_guarded(lambda: app(list(arguments) if arguments is not None else None, standalone_mode=False)))


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _guarded(command: Callable[[], Any]) -> int:
    try:
        return int(command() or 0)
    except BadInput as error:
        typer.echo(f"parity: {error}", err=True)
        return EXIT_USAGE
    except ClickException as error:
        error.show()
        return EXIT_USAGE
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("parity: interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        import traceback

        traceback.print_exc()
        typer.echo("parity: this is a fault of parity itself, please report it with the lines above", err=True)
        return EXIT_ERROR
