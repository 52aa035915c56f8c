"""The `turnout` command. Heavy libraries are imported by the commands that need them, so that help is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import typer

from services.cli import alerts, ask, bench, drift, export, health, models, replay, report, simulate, split, train, up
from services.cli.demo import command as demo
from services.cli.output import messages
from services.runtime.errors import AlreadyExists, InvalidArgument, NotFound, TurnoutError, Unauthenticated

FAILED: Final = 1
WRONG_INPUT: Final = 2
INTERRUPTED: Final = 130
_INPUT: Final = (InvalidArgument, NotFound, AlreadyExists, Unauthenticated)
_TOKENS: Final = "TURNOUT_OPERATOR_TOKEN is for the hub, TURNOUT_TOKEN or --token for predict, outcome and explain"
_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="turnout",
    help="Model serving over gRPC with A/B routing that always answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=_OPTIONS,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"turnout {version('turnout')}")
        raise typer.Exit


@app.callback()
def _turnout(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Model serving over gRPC with A/B routing that always answers."""


_COMMANDS: Final[tuple[Callable[..., None], ...]] = (
    demo.demo,
    up.up,
    train.train,
    ask.predict,
    ask.outcome,
    ask.explain,
    replay.replay,
    export.export,
    health.health,
    drift.drift,
    report.report,
    simulate.simulate,
    bench.bench,
)
for _command in _COMMANDS:
    app.command(context_settings=_OPTIONS)(_command)
app.add_typer(split.app, name="split")
app.add_typer(alerts.app, name="alerts")
app.add_typer(models.app, name="models")


def run(arguments: Sequence[str]) -> int:
    """Runs the command; gives its exit code and tells an error in one sentence on standard error."""
    try:
        code = app(args=list(arguments), prog_name="turnout", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing more can be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if os.environ.get("TURNOUT_DEBUG"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            # A command group without a command: its help is the answer.
            print(error, file=sys.stderr)
            return WRONG_INPUT
        code, sentence = told(error)
        messages().print(f"turnout: {sentence}", markup=False, soft_wrap=True)
        return code
    return code if isinstance(code, int) else 0


def told(error: Exception) -> tuple[int, str]:
    """Gives the exit code and the sentence of an error."""
    from services.cli.process import StartFailed
    from services.runtime.config import ConfigError

    match error:
        case typer.TyperException():
            text = error.format_message().strip()
            text = text[:1].lower() + text[1:].rstrip(".")
            context = getattr(error, "ctx", None)
            return WRONG_INPUT, f"{text}; see `{context.command_path if context else 'turnout'} --help`"
        case ConfigError():
            return WRONG_INPUT, str(error)
        case TurnoutError():
            missing = isinstance(error, Unauthenticated)
            sentence = f"no valid token was sent ({error.message}): {_TOKENS}" if missing else error.message
            return WRONG_INPUT if isinstance(error, _INPUT) else FAILED, sentence
        case StartFailed():
            return FAILED, str(error)
        case OSError() if error.filename is not None:
            return FAILED, f"{error.filename}: {(error.strerror or str(error)).lower()}"
        case _:
            return (
                FAILED,
                f"unexpected {type(error).__name__}: {error}; repeat with TURNOUT_DEBUG=1 to see where it comes from",
            )


def main() -> None:
    """Runs the command with this process's arguments and ends it with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What a terminal of another encoding cannot show must not keep the rest from being read.
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
