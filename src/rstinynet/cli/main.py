"""The program `rstinynet`: finds the verb, and turns every outcome into an exit code.

Exit codes: 0 ok, 1 runtime, 2 usage, 3 data, 4 model or weights, 5 export, 130 interrupted.
Results go to stdout; messages, progress and errors to stderr.
"""

from __future__ import annotations

import codecs
import difflib
import io
import os
import sys
import traceback as tracebacks
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Protocol, runtime_checkable

import typer
from rich.console import Console
from rich.text import Text

from rstinynet.errors import RSTinyNetError
from rstinynet.runtime.allocation import keep_memory
from rstinynet.version import __version__

VERBS = {
    "train": "Train a model on labelled images.",
    "val": "Measure a model on labelled images in AI-TOD's protocol.",
    "predict": "Find objects in images and GeoTIFF scenes.",
    "count": "Count found objects by zone, on a grid, in H3 cells.",
    "export": "Write a model that runs without torch: ONNX, OpenVINO.",
    "package": "Write a folder that uploads to a model hub: weights, ONNX, card, STAC.",
    "benchmark": "Time a model on this machine, by runtime.",
    "info": "Parameters, cost and metadata of a model.",
    "data": "Prepare, check, convert, divide and count data sets.",
    "ablate": "Train the paper's ablation and write it beside the published one.",
    "tables": "Print the paper's tables with published and measured rows.",
    "view": "Draw several detectors side by side on the same images.",
    "report": "Write an evaluation as one HTML file.",
    "demo": "Find the vehicles of the sample scene.",
}
"""Every verb with its line of help. Verb V is the function (or the typer application) V
of the module rstinynet.cli.V."""

_RUN_A_MODEL = frozenset(
    ("train", "val", "predict", "export", "package", "benchmark", "ablate", "view", "demo")
)
_EXTRAS = {"torch": "torch", "tensorboard": "train", "matplotlib": "train", "onnx": "export"}
"""Which extra brings a module that is not in the core."""

INTERRUPTED = 130
_TRACEBACK = "--traceback"
_PRINTABLE = "rstinynet.printable"
"""Name of the handler of errors of stdout."""


@runtime_checkable
class _Refusal(Protocol):
    """A usage error of the parser, which typer vendors in some versions and imports in others."""

    exit_code: int

    def format_message(self) -> str: ...


def main() -> None:
    """Entry point of the console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_PRINTABLE, _printable)
        sys.stdout.reconfigure(errors=_PRINTABLE)
    sys.exit(run(sys.argv[1:]))


def _printable(error: UnicodeError) -> tuple[bytes, int]:
    """What to print for a character that the output's encoding lacks.

    Names of files may be of any bytes, which are printed as they are; another is escaped, since a
    terminal that cannot show a name is no reason to fail when the work is done.
    """
    assert isinstance(error, UnicodeEncodeError)
    one = error.object[error.start]
    as_is = 0xDC80 <= ord(one) <= 0xDCFF
    return one.encode("ascii", "surrogateescape" if as_is else "backslashreplace"), error.start + 1


def run(arguments: Sequence[str]) -> int:
    """Run the command line `arguments` (without the program's name); gives the exit code."""
    # Read by libgomp when torch is loaded: spinning threads make a forward pass ten times slower
    # when something else keeps a core busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if _verb_of(arguments) in _RUN_A_MODEL:
        keep_memory()
    wants_traceback = _TRACEBACK in arguments
    arguments = [argument for argument in arguments if argument != _TRACEBACK] or ["--help"]
    try:
        outcome = _invoke(arguments)
    except KeyboardInterrupt:
        outcome = INTERRUPTED
    except typer.Abort:
        outcome = INTERRUPTED
    except RSTinyNetError as error:
        _complain(str(error), wants_traceback=wants_traceback)
        return error.exit_code
    except Exception as error:
        if isinstance(error, _Refusal):
            _complain(_usage_message(error), wants_traceback=wants_traceback)
            return error.exit_code
        _complain(_unexpected_message(error, wants_traceback), wants_traceback=wants_traceback)
        return 1
    if outcome == INTERRUPTED:
        _complain("interrupted", wants_traceback=False)
    return outcome


def _invoke(arguments: Sequence[str]) -> int:
    command = typer.main.get_command(_application(_verb_of(arguments)))
    outcome = command.main(list(arguments), prog_name="rstinynet", standalone_mode=False)
    return outcome if isinstance(outcome, int) else 0


def _verb_of(arguments: Sequence[str]) -> str | None:
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    return named if named in VERBS else None


def _application(verb: str | None) -> typer.Typer:
    """All verbs by name, but only `verb` imported: `rstinynet --help` stays quick."""
    application = typer.Typer(
        name="rstinynet",
        help="Finds tiny objects in remote-sensing images.",
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    application.callback()(_root)
    for name, summary in VERBS.items():
        if name == verb:
            verb_itself = getattr(import_module(f"rstinynet.cli.{name}"), name)
            if isinstance(verb_itself, typer.Typer):
                application.add_typer(verb_itself, name=name, help=summary)
            else:
                application.command(name)(verb_itself)
        else:
            application.command(name, help=summary)(_not_imported)
    return application


def _not_imported() -> None:
    """Stands for a verb in the list of verbs; `_verb_of` imports the one that is run."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option(_TRACEBACK, help="Show where an error came from (with any command).")
    ] = False,
) -> None:
    """Takes the options before the verb: `_print_version` and `run` act on them."""


def _usage_message(error: Exception) -> str:
    assert isinstance(error, _Refusal)
    message, near = error.format_message(), []
    context: Any = getattr(error, "ctx", None)
    unknown = getattr(error, "option_name", None)
    if context is not None and message.startswith("No such option"):
        message = f"no such option: {unknown}"
        near = _near(str(unknown), [name for p in context.command.params for name in p.opts])
    elif message.startswith("Missing command"):
        message = f"a command is missing, one of {', '.join(context.command.commands)}"
    elif message.startswith("No such command"):
        typed = message.split("'")[1]
        message = f"no such command: {typed}"
        near = _near(typed, list(getattr(getattr(context, "command", None), "commands", VERBS)))
    lines = [message + (f"; did you mean {' or '.join(near)}?" if near else "")]
    if context is not None:
        lines.append(f"`{context.command_path} --help` lists what there is")
    return "\n".join(lines)


def _near(typed: str, known: Sequence[str] | dict[str, str]) -> list[str]:
    return difflib.get_close_matches(typed, list(known), n=2, cutoff=0.6)


def _unexpected_message(error: Exception, wants_traceback: bool) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return f"this needs {error.name}, which is not installed: pip install 'rs-tinynet[{extra}]'"
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        # A rename names two files: the second is the one that the user knows.
        message = f"{error.filename2 or error.filename}: cannot be used: {error.strerror}"
    return message if wants_traceback else f"{message}\nadd {_TRACEBACK} to see where it came from"


def _complain(message: str, *, wants_traceback: bool) -> None:
    if wants_traceback:
        tracebacks.print_exc(file=sys.stderr)
    console = Console(stderr=True, highlight=False)
    console.print(Text("error: ", "bold red") + Text(message, "red"), soft_wrap=True)


if __name__ == "__main__":
    main()
