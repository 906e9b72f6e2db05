"""Compiles the kernel with NVRTC, through NVIDIA's own Python package (cuda-bindings), and keeps the result on disk."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from layerroute.backbone.hopper.layout import Layout
from layerroute.errors import KernelError
from layerroute.files import replace_bytes

ARCHITECTURE = "sm_90"
SOURCES = ("primitives.cu", "common.cu", "producer.cu", "consumer.cu", "attention.cu", "decode.cu")
REMEDY = "pip install layerroute[hopper]"


def why_not_compile() -> str | None:
    """Why nothing can be compiled here, or None if it can."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        return f"the package cuda-bindings is not installed: {REMEDY}"
    try:
        nvrtc_version()
    except Exception as error:  # the package raises several types where the library is missing
        first_line = (str(error).splitlines() or [""])[0][:120]
        return f"NVRTC, the run-time compiler, cannot be loaded ({first_line}): {REMEDY}"
    return None


def nvrtc_version() -> tuple[int, int]:
    """Version of the compiler."""
    from cuda.bindings import nvrtc

    major, minor = checked(nvrtc.nvrtcVersion())
    return int(major), int(minor)


def source() -> str:
    """The kernel's whole source."""
    folder = files("layerroute.backbone.hopper")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in SOURCES)


def compiled(layout: Layout) -> bytes:
    """Machine code of the kernel for a layout, from the cache if it has been compiled before.

    Raises:
        KernelError: with the first lines of the compiler's log.
    """
    text = source()
    options = [f"--gpu-architecture={ARCHITECTURE}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in sorted(layout.defines().items())]
    key = hashlib.sha256("\0".join([text, *options, repr(nvrtc_version())]).encode()).hexdigest()
    path = cache_folder() / f"{key}.cubin"
    try:
        return path.read_bytes()
    except OSError:
        cubin = compile_source(text, options)
        _keep(path, cubin)
        return cubin


def compile_source(text: str, options: Sequence[str]) -> bytes:
    """Machine code of a source.

    Raises:
        KernelError: with the first lines of the compiler's log.
    """
    from cuda.bindings import nvrtc

    program = checked(nvrtc.nvrtcCreateProgram(text.encode(), b"decode.cu", 0, [], []))
    try:
        encoded = [option.encode() for option in options]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
        if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(checked(nvrtc.nvrtcGetProgramLogSize(program)))
            checked(nvrtc.nvrtcGetProgramLog(program, log))
            raise KernelError(f"{result.name}: {log.decode(errors='replace')[:600]}")
        cubin = bytearray(checked(nvrtc.nvrtcGetCUBINSize(program)))
        checked(nvrtc.nvrtcGetCUBIN(program, cubin))
        return bytes(cubin)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def checked(result: tuple[Any, ...]) -> Any:
    """What a call of the package returned, without its error code.

    Raises:
        KernelError: the code is not success.
    """
    code, *values = result
    if code.value != 0:
        raise KernelError(f"{type(code).__name__}.{code.name}")
    return values[0] if len(values) == 1 else tuple(values)


def cache_folder() -> Path:
    """Where machine code is kept: `layerroute/kernels` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layerroute" / "kernels"


def _keep(path: Path, cubin: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, cubin)
    except OSError:
        return  # a folder that cannot be written: the next process compiles again
