"""The program's exit codes, its messages and what it leaves on stdout."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Callable

import pytest

from rstinynet import errors
from rstinynet.cli import main as program
from rstinynet.version import __version__


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., None]], None]:
    """Put a function in the place of the verb `demo`."""

    def install(function: Callable[..., None]) -> None:
        module = types.ModuleType("rstinynet.cli.demo")
        module.demo = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "rstinynet.cli.demo", module)

    return install


def raising(error: BaseException) -> Callable[[], None]:
    def demo() -> None:
        raise error

    return demo


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_verb(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run(arguments) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in program.VERBS)


@pytest.mark.parametrize("name", program.VERBS)
def test_every_verb_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run([name, "--help"]) == 0
    assert f"rstinynet {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        # Names of files may be of any bytes.
        ("utf-8:strict", "os.fsdecode(bytes([255]) + b'.html')", b"\xff.html"),
        ("latin-1", "'\u00e9 \u2192 ' + os.fsdecode(bytes([255]))", b"\xe9 \\u2192 \xff"),
    ],
)
def test_bytes_of_names_are_printed_and_what_the_output_cannot_show_is_escaped(
    encoding: str, text: str, shown: bytes
) -> None:
    code = (
        "import os; from rstinynet.cli import main;"
        f"main.run = lambda arguments: print({text}) or 0;"
        "main.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [shown]


def test_help_imports_no_verb_and_no_torch() -> None:
    code = (
        "import sys; from rstinynet.cli import main; main.run(['--help']);"
        "heavy = {'torch', 'numpy', 'cv2', 'rstinynet.cli.info'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "times"), [("predict", 1), ("val", 1), ("train", 1), ("info", 0)])
def test_what_runs_a_model_keeps_the_memory_it_frees(
    name: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(program, "keep_memory", lambda: asked.append(True))
    assert program.run([name, "--help"]) == 0
    assert len(asked) == times


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RSTinyNetError("no room"), 1),
        (errors.UsageError("no room"), 2),
        (errors.DataError("no room"), 3),
        (errors.WeightsError("no room"), 4),
        (errors.ExportError("no room"), 5),
    ],
)
def test_own_errors_exit_with_their_code(
    error: errors.RSTinyNetError,
    code: int,
    verb: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    verb(raising(error))
    assert program.run(["demo"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: no room\n"


def test_a_long_message_is_not_wrapped(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    message = "[red]a/" + "long/" * 60 + "path.tif"
    verb(raising(errors.DataError(message)))
    program.run(["demo"])
    assert capsys.readouterr().err == f"error: {message}\n"


def test_an_unexpected_error_is_short_and_names_the_option(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(ZeroDivisionError("by nought")))
    assert program.run(["demo"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ZeroDivisionError: by nought\n")
    assert "--traceback" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("arguments", [["demo", "--traceback"], ["--traceback", "demo"]])
def test_traceback_is_shown_on_demand(
    arguments: list[str], verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(errors.DataError("no room")))
    assert program.run(arguments) == 3
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interruption_exits_130(
    verb: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    verb(raising(KeyboardInterrupt()))
    assert program.run(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "no such command: trian; did you mean train?"),
        (["frobnicate"], "no such command: frobnicate\n"),
        (["info", "--clases", "3"], "no such option: --clases; did you mean --classes?"),
        (["info", "--qqqqq"], "no such option: --qqqqq\n"),
        (["--verson"], "no such option: --verson; did you mean --version?"),
        (["info", "--classes", "many"], "--classes"),
        (["info", "a", "b"], "b"),
    ],
)
def test_usage_errors_exit_2_and_suggest(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.run(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert "--help` lists what there is" in shown.err


def test_the_console_script_exits_with_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rstinynet.cli.main", "trian"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean train?" in done.stderr
