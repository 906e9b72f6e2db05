"""The command line: its frozen surface, and how it refuses what it cannot take."""

import argparse
import os
import subprocess
import sys

import pytest

from layerroute.cli import main
from layerroute.commands.parser import build_parser

MODEL_OPTIONS = {"--model", "--adapter", "--device", "--router", "--program", "--scope", "--ledger", "--json"}
SURFACE = {
    "demo": {"--task", "--interactive", *MODEL_OPTIONS},
    "chat": {"--message", "--system", *MODEL_OPTIONS},
    "train": {
        *(
            "--recipe",
            "--data",
            "--steps",
            "--processes",
            "--set",
            "--out",
            "--prepare",
            "--resume",
            "--no-evaluate",
            "--quiet",
        ),
        *("--seeds", "--parallel"),
    },
    "evaluate": {
        *("BUNDLE", "--backbone", "--device", "--data", "--steps", "--split", "--limit", "--baselines"),
        *("--no-baselines", "--static-bundle", "--free-running", "--processes", "--json", "--plots"),
    },
    "report": {"FILE", "--json"},
    "bench": {
        *("--model", "--shape", "--device", "--dtype", "--context", "--steps", "--backend", "--json"),
        *("--compare-transformers", "--no-compare-transformers", "--prompts", "--batch", "--agent-turn"),
    },
    "version": {"--json"},
}


def options_of(parser):
    for action in parser._actions:
        yield from action.option_strings or [action.metavar or action.dest]


def subparsers():
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return action.choices


def test_the_surface_is_frozen():
    assert {name: set(options_of(parser)) - {"-h", "--help"} for name, parser in subparsers().items()} == SURFACE


@pytest.mark.parametrize("command", [[], *([name] for name in SURFACE)])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: layerroute" in capsys.readouterr().out


def test_every_option_is_explained():
    for name, parser in subparsers().items():
        assert parser.description, name
        assert all(action.help for action in parser._actions), name


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["demo", "--task", "t", "--interactive"], ["chat", "--scope", "all"]]
)
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["demo", "--rooter=full"], "'--rooter' (did you mean '--router'?)"),
        (["bench", "--promts", "512"], "'--promts' (did you mean '--prompts'?), '512'"),
        (["chat", "--zzz"], "'--zzz'"),
        (["chat", "--message", "x", "y"], "'y'"),
    ],
)
def test_an_unknown_option_is_told_what_it_is_like(arguments, hint, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert f"usage: layerroute {arguments[0]}" in err
    assert err.endswith(f"unrecognized arguments: {hint}\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "", "model must be"),
        ("--adapter", "", "adapter must be"),
        ("--device", "", "device must be"),
        ("--device", "gpu", "unknown device"),
        ("--router", "", "router must be"),
        ("--router", "\udcff", "--router holds"),
        ("--router", "ful", "cannot read router"),
        ("--router", f"random:0.3:{'1' * 5000}", "cannot read router"),
        ("--router", f"length:{'1' * 5000}:all", "cannot read router"),
        ("--router", f"static:{'1' * 5000}", "in program"),
        ("--program", "", "program must be"),
        ("--program", "1" * 5000, "in program"),
        ("--program", f"0-{'9' * 5000}", "in program"),
        ("--program", "0-23," * 1000 + "0", "visits"),
    ],
    ids=lambda value: value[:12],
)
def test_a_value_that_cannot_be_honoured_is_one_line_and_ends_with_2(option, value, message, capsys):
    device = [] if option == "--device" else ["--device", "cpu"]
    assert main(["chat", "--message", "Hi", "--json", "--scope", "sequence", *device, f"{option}={value}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 400


def test_reading_options_loads_no_heavy_package():
    code = (
        "import sys; from layerroute.commands.parser import build_parser; build_parser(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'langchain_core', 'datasets')))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
