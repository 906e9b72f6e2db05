"""The README tells the truth: its Python runs, its commands exist, its file tree is the repository's."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import layerroute

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHIPPED = Path(layerroute.__file__).parent / "assets" / "embedded"
UNLISTED = {"__init__.py", "py.typed", "__pycache__"}


def blocks(language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every `layerroute ...` command of the shell blocks and of inline code, split into words."""
    lines = [part for block in blocks("sh") for line in block.splitlines() for part in line.split("&&")]
    lines += re.findall(r"`(layerroute [^`]+)`", README)
    return [shlex.split(line) for line in lines if line.split()[0] == "layerroute"]


@pytest.fixture(scope="module")
def help_of() -> dict[str, str]:
    """Help text of every sub-command that the README names."""
    texts = {}
    for name in sorted({words[1] for words in commands()}):
        script = "import sys; from layerroute.cli import main; sys.exit(main())"
        run = subprocess.run(
            [sys.executable, "-c", script, name, "--help"], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert run.returncode == 0, f"layerroute {name} --help: {run.stderr}"
        texts[name] = run.stdout
    return texts


def test_commands_exist(help_of):
    assert set(help_of) == {"demo", "chat", "train", "evaluate", "report", "bench", "version"}
    for _, name, *arguments in commands():
        for option in (word for word in arguments if word.startswith("--")):
            assert re.search(rf"{option}\b", help_of[name]), f"layerroute {name} has no {option}"
    for option in ("--adapter", "--router", "--model", "--json"):
        assert option in help_of["demo"]


def test_first_commands():
    first, *_ = blocks("sh")
    assert first.strip() == 'pip install -e ".[demo]" && layerroute demo'
    assert 'pip install -e ".[test]" && pytest' in [block.strip() for block in blocks("sh")]


def test_python_runs():
    if not list(SHIPPED.glob("*.safetensors")):
        pytest.skip("this checkout has no embedded weights yet")
    namespace: dict[str, object] = {"__name__": "readme"}
    for number, source in enumerate(blocks("python"), start=1):
        exec(compile(source, f"README.md, Python block {number}", "exec"), namespace)
    reports = [namespace[name].response_metadata["layerroute"] for name in ("full", "short", "looped")]
    assert [report["program"] for report in reports] == ["0-23", "0-11,16-23", "0-11,10-23"]
    run = namespace["run"]
    assert [call["name"] for message in run["messages"] for call in getattr(message, "tool_calls", [])] == [
        "calculator"
    ]


def listed_paths() -> list[str]:
    """Paths of the file tree in the README."""
    (tree,) = blocks("text")
    folder, paths = "", []
    for line in tree.splitlines():
        if line.startswith("   "):
            continue  # the description of the line above
        name = line.split()[0]
        if line.startswith(" "):
            name = folder + name
        else:
            folder = name
        paths.append(name)
    return paths


def test_file_tree_matches_the_repository():
    listed = listed_paths()
    assert [path for path in listed if not (ROOT / path).exists()] == []
    runtime = {
        f"layerroute/{entry.name}{'/' if entry.is_dir() else ''}"
        for entry in (ROOT / "layerroute").iterdir()
        if entry.name not in UNLISTED
    }
    assert runtime == {path for path in listed if path.startswith("layerroute/")} - {"layerroute/"}
