"""The hopper backend on a CPU: its kernel's own source, compiled with an emulation of its primitives."""

import ctypes
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from qwen2 import load, random_model, save

from layerroute.backbone.hopper import compiler
from layerroute.backbone.hopper.driver import Params
from layerroute.backbone.hopper.layout import choose_layout
from layerroute.backbone.hopper.stepper import HopperStepper
from layerroute.backbone.model import Backbone
from layerroute.backbone.weights import BackboneWeights

HERE = Path(__file__).parent / "backbone"
COMPILER = shutil.which("g++") or shutil.which("clang++")
emulated = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler for the emulator")

GRID = 12
SHAPE_7 = {
    "vocab_size": 297, "hidden_size": 96, "intermediate_size": 544, "num_hidden_layers": 3, "num_attention_heads": 7,
    "num_key_value_heads": 1, "head_dim": 64, "max_position_embeddings": 400,
}  # fmt: skip
SHAPE_2 = SHAPE_7 | {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96, "hidden_size": 64}
SPLITS = {24: 2, 60: 6, 100: 3, 1 << 30: 1}


class Emulator:
    """Compiles the kernel for a layout and runs launches; `ctas` and `seed` may change between launches."""

    def __init__(self, layout, folder):
        self.ctas, self.seed = layout.grid, 1
        library = folder / "decode.so"
        defines = [f"-D{name}={value}" for name, value in layout.defines().items()]
        sources = Path(compiler.__file__).parent
        command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", f"-I{sources}", f"-I{HERE}", *defines]
        subprocess.run([*command, HERE / "hopper_emulator.cpp", "-o", library], check=True)
        self._emulate = ctypes.CDLL(str(library)).emulate

    def __call__(self, params: Params) -> None:
        self.seed += 1
        self._emulate(ctypes.byref(params), self.ctas, self.seed)


def small_layout(config):
    """Slots of few rows and slices of few columns, so that the ring turns often; splits of few positions."""
    layout = choose_layout(config, GRID)
    return replace(layout, max_splits=8, down_chunks=2, slots=13, spin_looks=100_000)


def build(folder, shape, **changes):
    """A backbone in bfloat16, the same in float32, a stepper that emulates the kernel, and its emulator."""
    backbone = load(save(random_model(**shape), folder), torch.bfloat16)
    weights = BackboneWeights(*(getattr(backbone.weights, name).float() for name in BackboneWeights.__slots__))
    layout = replace(small_layout(backbone.config), **changes)
    emulator = Emulator(layout, folder)
    made = HopperStepper(backbone, layout, emulator)
    made.splits = SPLITS
    made.delay = (0, 0, 0, 0, 0, 0)
    return backbone, Backbone(backbone.config, weights), made, emulator
