"""The command line: `sat-optuna COMMAND STUDY|TICKET`; one command a file, imported when run."""

import importlib
import io
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click
from typing_extensions import override

from sat_optuna.errors import SatOptunaError, readable

__all__ = ["main", "sat_optuna"]

# In the order of a study's life, which `--help` keeps.
_COMMANDS = {
    "new": "new:new",
    "check": "check:check",
    "run": "run:run",
    "pretrain": "pretrain:pretrain",
    "search": "search:search",
    "trials": "trials:trials",
    "enumerate": "enumerate:enumerate_all",
    "ticket": "ticket:ticket",
    "retrain": "retrain:retrain",
    "report": "report:report",
    "evidence": "evidence:evidence",
    "transfer": "transfer:transfer",
    "truth": "truth:truth",
    "show": "show:show",
    "export": "export:export",
    "evaluate": "evaluate:evaluate",
    "compare": "compare:compare",
    "ls": "ls:ls",
    "data": "data:data",
    "dashboard": "dashboard:dashboard",
    "ui": "ui:ui",
    "bench": "bench:bench",
    "doctor": "doctor:doctor",
}


class _Lazy(click.Group):
    """A group that imports a command's file when the command is asked for."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(
            importlib.import_module(f"sat_optuna.cli.{module}"), attribute
        )
        return command

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the command that was meant; click looks among those that are imported alone."""
        name = args[0]
        unknown = self.get_command(ctx, name) is None and not name.startswith("-")
        if unknown and not ctx.resilient_parsing:
            from sat_optuna.registry import nearest

            meant = nearest(name, self.list_commands(ctx)) or ";"
            ctx.fail(f"no command {name!r}{meant} see sat-optuna --help")
        return super().resolve_command(ctx, args)

    @override
    def invoke(self, ctx: click.Context) -> Any:
        """Turn our errors into one sentence and exit code 1; `--debug` shows where they arose."""
        try:
            return super().invoke(ctx)
        except SatOptunaError as error:
            if ctx.params["debug"]:
                raise
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if ctx.params["debug"] or isinstance(error, BrokenPipeError):
                raise
            file = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(
                f"{file}{error.strerror or error}; see to it and run the same command again"
            ) from error


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Also show the libraries' own messages.")
@click.option("-q", "--quiet", is_flag=True, help="Show results alone, no progress.")
@click.option("--debug", is_flag=True, help="Show where an error arose.")
@click.version_option(package_name="sat_optuna", prog_name="sat-optuna")
@click.pass_context
def sat_optuna(ctx: click.Context, *, verbose: bool, quiet: bool, debug: bool) -> None:
    """Find out in which residual blocks of a CNN self-attention pays.

    \b
    sat-optuna run studies/quickstart     the whole road, about five minutes
    sat-optuna new mine                   a study of your own, then edit its study.toml
    sat-optuna run mine                   pretrain, search, retrain with controls, report

    STUDY is a folder that holds study.toml, or the name of one under studies/.
    Each option can be set by environment, SAT_OPTUNA_<COMMAND>_<OPTION>.
    """  # noqa: D301  click wants the character, not its name
    from sat_optuna.cli.console import Console

    ctx.obj = Console(quiet=quiet, verbose=verbose)
    del debug  # read by _Lazy.invoke


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0 ok, 1 our error, 2 usage, 130 interrupted."""
    from sat_optuna.cli.console import INTERRUPTED, wrapped

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        INTERRUPTED.set()  # where Python drops the exception, within a destructor, this is left
        raise KeyboardInterrupt

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        # Of an interrupt within a destructor Python prints a traceback; it is heard all the same.
        if not (INTERRUPTED.is_set() and unraisable.exc_type is KeyboardInterrupt):
            hook(unraisable)

    INTERRUPTED.clear()
    hook, sys.unraisablehook = sys.unraisablehook, dropped
    # SIGTERM closes trials, runs and child processes the way Ctrl-C does.
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell may ignore it
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        code = sat_optuna.main(
            args=None if arguments is None else list(arguments),
            prog_name="sat-optuna",
            standalone_mode=False,
            auto_envvar_prefix="SAT_OPTUNA",
        )
    except click.ClickException as error:
        if isinstance(error, click.UsageError):
            shown = io.StringIO()
            error.show(shown)
            click.echo(readable(shown.getvalue()), nl=False, err=True)
        else:
            text = readable(f"Error: {error.format_message()}")
            click.echo(wrapped(text, sys.stderr), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            "Interrupted; the same command takes a study up again from what is finished.", err=True
        )
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 0
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if isinstance(code, int) else 0
