"""`layerroute version`."""

import json

import torch

from layerroute import __version__
from layerroute.cli import main


def test_version(capsys):
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["layerroute"] == __version__
    assert versions["torch"] == torch.__version__
    assert set(versions) == {"layerroute", "python", "torch", "transformers", "langchain-core", "langchain", "device"}
    assert main(["version"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(versions)
