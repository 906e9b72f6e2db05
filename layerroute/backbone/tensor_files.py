"""The safetensors files of a checkpoint: which they are, what they hold, and whether that is what config.json says.

Shape suffixes: D hidden size, H query heads * head_dim, K KV heads * head_dim, I intermediate size.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from stat import S_ISREG
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from layerroute.backbone.config import BackboneConfig
from layerroute.backbone.documents import AGAIN, Document, read_document
from layerroute.errors import BackboneNotFoundError, CheckpointError, WeightsError, shown

_FILE_NAME = re.compile(r"[\w.-]+\.safetensors", re.ASCII)
_BLOCK = re.compile(r"model\.layers\.(\d{1,9})\.")
_DTYPES = {"BF16", "F16", "F32", "F64"}


class _IndexDocument(Document):
    weight_map: dict[str, str]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: `model.safetensors`, or else those that its index names.

    Raises:
        BackboneNotFoundError: the folder holds neither.
        CheckpointError: the index is damaged, or names files that are missing or elsewhere.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if os.path.lexists(single):
        return [single]
    if not os.path.lexists(index):
        raise BackboneNotFoundError(
            f"{folder} holds neither {single.name} nor {index.name}: give a checkpoint in safetensors form "
            "(other formats can run code when loaded and are refused)"
        )
    names = sorted(set(read_document(index, _IndexDocument).weight_map.values()))
    for name in names:
        if not _FILE_NAME.fullmatch(name):
            raise CheckpointError(f"{index} names the file {shown(name)}, which is no weight file here: {AGAIN}")
        if not (folder / name).exists():
            raise WeightsError(f"{folder} lacks {name}, which {index.name} names: a weight file is missing, {AGAIN}")
    return [folder / name for name in names]


class TensorFiles:
    """Tensors by name over the safetensors files of a folder, read one at a time.

    Raises:
        BackboneNotFoundError: the folder holds no safetensors.
        CheckpointError: a file is missing, truncated or not safetensors, or two files hold the same tensor.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, Any] = {}
        with ExitStack() as stack:
            for path in weight_files(folder):
                handle = stack.enter_context(_open(path))
                names = handle.keys()
                if twice := sorted(self._by_name.keys() & names):
                    raise WeightsError(f"{path} holds {shown(twice[0])}, as another file does: {AGAIN}")
                self._by_name.update(dict.fromkeys(names, handle))
            self._stack = stack.pop_all()

    def __enter__(self) -> "TensorFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._by_name))

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._by_name[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """Read one tensor, which `check` has found to be as asked for."""
        tensor: Tensor = self._by_name[name].get_tensor(name)
        return tensor

    def vectors(self) -> dict[str, Tensor]:
        """All 1-D tensors as float32, by name in their order.

        Raises:
            WeightsError: one is of a dtype that torch does not have or cannot convert.
        """
        found = {}
        for name in self:
            try:
                if len(self.shape(name)) == 1:
                    found[name] = self.read(name).float()
            except Exception as error:  # many types are raised
                raise WeightsError(
                    f"{shown(name)} in {self.folder} cannot be read ({str(error)[:200]!a}): {AGAIN}"
                ) from error
        return found

    def check(self, config: BackboneConfig) -> None:
        """Check that the files hold the tensors that a configuration asks for. Reads no tensor, allocates nothing.

        Raises:
            WeightsError: a tensor is missing, of another shape or no floating-point numbers; or blocks are left over.
        """
        for name, shape in _tensors_of(config):
            if name not in self._by_name:
                raise WeightsError(f"{self.folder} lacks the tensor {name!r}: a weight file is missing, {AGAIN}")
            if self.shape(name) != shape:
                raise WeightsError(
                    f"{name!r} in {self.folder} has shape {self.shape(name)}, but config.json asks for {shape}: "
                    f"weights and configuration are of different models, {AGAIN}"
                )
            dtype = self._by_name[name].get_slice(name).get_dtype()
            if dtype not in _DTYPES:
                raise WeightsError(
                    f"{name!r} in {self.folder} is of dtype {dtype}: use the plain checkpoint in bfloat16, float16 or "
                    "float32, not a quantised one"
                )
        for name in self:
            block = _BLOCK.match(name)
            if block and int(block[1]) >= config.num_blocks:
                raise WeightsError(
                    f"{self.folder} holds {shown(name)}, but config.json has num_hidden_layers = {config.num_blocks}: "
                    f"weights and configuration are of different models, {AGAIN}"
                )


def _open(path: Path) -> Any:
    try:
        if not S_ISREG(path.stat().st_mode):
            raise OSError("it is no regular file")
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is truncated or damaged ({str(error)[:200]!a}): {AGAIN}") from error


def block_tensors(config: BackboneConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of a block's tensors by name, in the order in which they are stacked."""
    D, I = config.hidden_size, config.intermediate_size  # noqa: E741 - the shape letters of this module
    H, K = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    rows = {"q": H, "k": K, "v": K}
    return {
        "input_layernorm.weight": (D,),
        **{f"self_attn.{p}_proj.weight": (r, D) for p, r in rows.items()},
        **{f"self_attn.{p}_proj.bias": (r,) for p, r in rows.items()},
        "self_attn.o_proj.weight": (D, H),
        "post_attention_layernorm.weight": (D,),
        "mlp.gate_proj.weight": (I, D),
        "mlp.up_proj.weight": (I, D),
        "mlp.down_proj.weight": (D, I),
    }


def _tensors_of(config: BackboneConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every tensor that a configuration asks for, by name; lazily, as a damaged one may ask for very many."""
    matrix = (config.vocab_size, config.hidden_size)
    yield "model.embed_tokens.weight", matrix
    for block in range(config.num_blocks):
        for name, shape in block_tensors(config).items():
            yield f"model.layers.{block}.{name}", shape
    yield "model.norm.weight", (config.hidden_size,)
    if not config.tied:
        yield "lm_head.weight", matrix
