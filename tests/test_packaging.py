"""What is shipped and how it is imported: light imports, typed packages, one version, short files, no machine paths."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import langchain_layerroute
import layerroute

ROOT = Path(__file__).parents[1]
PACKAGES = ("layerroute", "integrations/langchain_layerroute", "training/layerroute_training")
MAX_LINES = 600


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file under version control."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listing.split("\0") if name and (path := ROOT / name).is_file()]


def imported_modules(statements: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `statements`."""
    paths = [str((ROOT / package).parent) for package in PACKAGES]
    prelude, closing = f"import sys; sys.path[:0] = {paths!r}", "print(*{name.split('.')[0] for name in sys.modules})"
    script = f"{prelude}\n{statements}\n{closing}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


ALL_OF_LAYERROUTE = """
import importlib, pkgutil, layerroute
for module in pkgutil.walk_packages(layerroute.__path__, "layerroute."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name != "triton":  # the GPU kernels; whoever imports them looks for Triton first
                raise
"""


@pytest.mark.parametrize("statements", ["import layerroute", ALL_OF_LAYERROUTE], ids=["package", "every module"])
def test_the_runtime_imports_neither_langchain_nor_datasets(statements):
    loaded = imported_modules(statements)
    assert "layerroute" in loaded
    assert not loaded & {"langchain", "langchain_core", "langgraph", "datasets", "peft", "langchain_layerroute"}


def test_the_bottom_of_the_import_graph_needs_no_torch():
    loaded = imported_modules("import layerroute.program, layerroute.flops, layerroute.errors")
    assert not loaded & {"torch", "transformers"}


def test_the_integration_imports_without_langchain():
    # None in sys.modules makes an import fail as if the package were not installed.
    blocked = "sys.modules['langchain'] = sys.modules['langgraph'] = None\n"
    loaded = imported_modules(blocked + "from langchain_layerroute import ChatLayerRoute, LayerRouteChatModel")
    assert "langchain_layerroute" in loaded


def test_a_missing_extra_is_named():
    blocked = (
        "sys.modules['langchain'] = sys.modules['langgraph'] = None\n"
        "try:\n    from langchain_layerroute import ComputeReportMiddleware\n"
        "except ImportError as error:\n    assert 'layerroute[demo]' in str(error), error\n"
        "else:\n    raise SystemExit('imported without langchain')"
    )
    imported_modules(blocked)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_typed(package):
    assert (ROOT / package / "py.typed").is_file()


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert layerroute.__version__ == project["version"]


def test_public_names():
    assert layerroute.__all__ == ["__version__"]
    assert set(langchain_layerroute.__all__) == {
        "ChatLayerRoute",
        "ComputeReportMiddleware",
        "ComputeReportHandler",
        "LayerRouteChatModel",
    }
    for package in (layerroute, langchain_layerroute):
        assert all(hasattr(package, name) for name in package.__all__)


def test_no_file_is_too_long(tracked):
    sources = [path for path in tracked if path.suffix in {".py", ".cu", ".sh"} or path.parent.name == ".ci"]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_no_path_of_a_developers_machine(tracked):
    marks = [f"/{folder}/".encode() for folder in ("work", "root")]
    leaks = {str(path.relative_to(ROOT)) for path in tracked for mark in marks if mark in path.read_bytes()}
    assert leaks == set()


def test_the_wheel_carries_the_three_packages():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(PACKAGES)


def test_shipped_weights_are_small():
    sizes = [path.stat().st_size for path in (ROOT / "layerroute" / "assets" / "embedded").glob("*.safetensors")]
    assert all(size < 16_000_000 for size in sizes)
    assert sum(sizes) <= 48_000_000
