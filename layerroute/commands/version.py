"""Print the versions of layerroute and of what it runs on, and the device that --device auto takes."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

from layerroute import __version__
from layerroute.commands.shared import print_document

HELP = "print versions and the device found"
_PACKAGES = ("torch", "transformers", "langchain-core", "langchain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the versions on stdout."""
    versions: dict[str, str | None] = {"layerroute": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in _PACKAGES}
    versions["device"] = _device()
    if args.json:
        print_document(versions)
        return 0
    for name, value in versions.items():
        print(f"{name:<15} {value or 'not installed'}")
    return 0


def _version(package: str) -> str | None:
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"cuda ({torch.cuda.get_device_name()})"
    return f"cpu ({torch.get_num_threads()} threads)"
