"""The command line: strings in, one library call, words out. Heavy imports wait in the commands."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tellapart.cli import (
    collecting,
    exporting,
    grouping,
    inspecting,
    judging,
    learning,
    serving,
    sorting,
    stock,
    training,
    using,
)
from tellapart.cli.options import say
from tellapart.errors import NotForRanks, TellapartError

# What these compute is kept between runs; what others were doing is only begun anew.
GO_ON = ("train", "find-lr", "inspect", "group", "features", "similar", "collect")


class _Stopped(Exception):
    """Ctrl-C, in a shape that reaches `main`: typer would end the process without a word.

    goes_on: whether the same command finds what was computed until then.
    """

    goes_on = False


class _NobodyReads(Exception):
    """A closed pipe, in a shape that reaches `main`: typer would call it a failure."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command, and leave it to `main` how an interrupted one ends."""
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _refuse_in_ranks(sys.argv[1:])
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            stopped = _Stopped()
            stopped.goes_on = ctx.invoked_subcommand in GO_ON
            raise stopped from error
        except BrokenPipeError as error:
            raise _NobodyReads from error


def _refuse_in_ranks(words: list[str]) -> None:
    """Let torchrun start several processes of `train` only: others would do the same N times."""
    from tellapart.backbones.ranks import in_ranks

    if words[:1] != ["train"] and in_ranks():
        raise NotForRanks(
            f"torchrun started {os.environ['WORLD_SIZE']} processes of `tellapart "
            f"{' '.join(words[:1])}`, which works in one. Nothing was done. Start it without "
            f"torchrun; `tellapart train` is what several processes can share."
        )


app = typer.Typer(
    name="tellapart",
    cls=_Commands,
    help="Tell pictures apart: a folder of labelled pictures in, a classifier in one file out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


for command in (
    training.train,
    using.predict,
    sorting.sort,
    sorting.undo,
    using.evaluate,
    judging.compare,
    judging.accept,
    exporting.export,
    exporting.quantize,
    exporting.info,
    training.show,
    training.find_lr,
    training.demo,
    inspecting.inspect,
    collecting.collect,
    stock.runs,
    stock.cache,
    grouping.group,
    grouping.features,
    grouping.similar,
    serving.serve,
    learning.learn,
):
    app.command()(command)
app.add_typer(stock.backbones)
app.add_typer(stock.recipes)
app.add_typer(serving.records)


def main() -> None:
    """Run the command line; errors become one paragraph and an exit code of their own."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that the terminal's encoding cannot say must not end a run.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            app(standalone_mode=True)
        finally:
            # Now rather than at exit, where nothing can be done about a closed pipe.
            sys.stdout.flush()
    except TellapartError as error:
        _stop(str(error), error.exit_code)
    except (_Stopped, KeyboardInterrupt) as error:
        kept = ", and what was computed is kept: the same command goes on from there"
        goes_on = isinstance(error, _Stopped) and error.goes_on
        _stop(f"Stopped. Nothing half-written was left behind{kept if goes_on else ''}.", 130)
    except (_NobodyReads, BrokenPipeError):
        # The reader has had enough (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("TELLAPART_DEBUG"):
            raise
        _stop(
            f"Something went wrong that nobody foresaw: {type(error).__name__}: {error}. "
            f"Run the same command with --debug and report what it prints.",
            1,
        )


def _stop(message: str, code: int) -> None:
    """End with a message; of several processes that train together, one says it."""
    from tellapart.backbones.ranks import may_speak

    if not may_speak(code):
        sys.exit(code)
    if os.environ.get("TELLAPART_DEBUG"):
        import traceback

        traceback.print_exc()
    say(f"tellapart: {message}", error=True)
    sys.exit(code)
