"""Bundles: the trained part of a routed model in one folder, verified when loaded, replaced as a whole when saved.

A bundle folder holds `routing.json`, `routers.safetensors` and, if there is a LoRA, PEFT's `adapter_config.json` and
`adapter_model.safetensors`. Nothing in it can run code.

Shape suffixes: L blocks, D hidden size.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import Tensor

from layerroute import __version__
from layerroute.backbone.config import read_config
from layerroute.backbone.tensor_files import TensorFiles
from layerroute.errors import BundleError, shown
from layerroute.files import parse_json, read_bounded, read_folder, replacing, standing, write_durably
from layerroute.flops import BackboneShape
from layerroute.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, LoraModule, load_tensors, parse_adapter, serialise_adapter
from layerroute.report import Scope

GateReads = Literal["own_block", "last_block"]
"""The block whose entering states a gate reads: its own, or the last one, for which the prompt has to run first."""

FORMAT = 1
ROUTING = "routing.json"
ROUTERS = "routers.safetensors"
_FILE_SETS = ({ROUTERS}, {ROUTERS, ADAPTER_CONFIG, ADAPTER_WEIGHTS})
_AGAIN = "fetch or train the bundle again"
_MOST_BYTES, _MOST_METADATA_BYTES = 2**33, 2**26


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BackboneIdentity(_Frozen):
    """The backbone a bundle was trained for: its name, and its `fingerprint`."""

    name: str
    fingerprint: str


class RoutingMetadata(_Frozen):
    """What `routing.json` says.

    Attributes:
        evidence: what the gates read of the prompt's states: the last token's, or the mean over prompt tokens.
        reads: the block whose entering states a gate reads: its own, or the last one for all gates.
        normalise: whether a state is divided by its root mean square first.
        always_run: blocks that run whatever their gate says.
        scope: tokens that the program governed in training.
        files: sha256 of every other file of the bundle.
        training, evaluation: free notes of the recipe.
    """

    format: Literal[1] = 1
    num_blocks: int
    hidden_size: int
    evidence: Literal["last", "mean"]
    reads: GateReads = "own_block"
    normalise: bool
    always_run: tuple[int, ...]
    scope: Scope
    backbone: BackboneIdentity
    files: dict[str, str]
    package_version: str
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A loaded bundle.

    Attributes:
        gates_weight_LD, gates_bias_L: one linear gate per block, float32.
        kind_weight_D, kind_bias: linear head for the kind of step, float32; the bias has shape [1].
        lora: LoRA by module name, such as "model.layers.0.self_attn.q_proj"; empty if the bundle has none.
    """

    path: Path
    metadata: RoutingMetadata
    gates_weight_LD: Tensor
    gates_bias_L: Tensor
    kind_weight_D: Tensor
    kind_bias: Tensor
    lora: Mapping[str, LoraModule] = field(default_factory=dict)

    def lora_deltas(self) -> dict[str, Tensor]:
        """Float32 weight changes by module name, to be added to the backbone's weights."""
        return {name: module.delta() for name, module in self.lora.items()}


def load_bundle(folder: str | Path) -> Bundle:
    """Load a bundle and verify every byte of it.

    Raises:
        BundleError: missing, incomplete, damaged, tampered with, or of an unknown format.
    """
    return read_folder(_path(folder), _load, BundleError)


def _load(path: Path) -> Bundle:
    metadata = _read_metadata(path)
    contents = {name: _read_verified(path / name, digest) for name, digest in metadata.files.items()}
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if name not in contents and (path / name).exists():
            raise BundleError(f"{path / name} is not listed in {ROUTING}: remove it, or {_AGAIN}")
    return _parse(path, metadata, contents)


def save_bundle(
    folder: str | Path,
    *,
    gates_weight_LD: Tensor,
    gates_bias_L: Tensor,
    kind_weight_D: Tensor,
    kind_bias: Tensor,
    evidence: Literal["last", "mean"],
    reads: GateReads = "own_block",
    normalise: bool,
    always_run: tuple[int, ...],
    scope: Scope,
    backbone: BackboneIdentity,
    lora: Mapping[str, LoraModule] | None = None,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle. Arguments are as in `Bundle` and `RoutingMetadata`.

    The folder appears, or is replaced, as a whole: a process killed at any point leaves the old bundle loadable, of
    several that save at once the last one's stays, and who loads meanwhile gets one of them.

    Raises:
        BundleError: the folder exists and `overwrite` is false or it is no bundle; it cannot be written; tensors that
            make no valid bundle.
    """
    path = _path(folder)
    with _writing(path):
        _refuse_overwriting(path, overwrite)
    if gates_weight_LD.ndim != 2:
        raise BundleError(f"gates need a weight of shape [blocks, hidden size], not {tuple(gates_weight_LD.shape)}")
    num_blocks, hidden_size = gates_weight_LD.shape
    tensors = {
        "gates.weight": gates_weight_LD,
        "gates.bias": gates_bias_L,
        "kind.weight": kind_weight_D,
        "kind.bias": kind_bias,
    }
    files = {ROUTERS: save({name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()})}
    if lora:
        files |= serialise_adapter(lora, num_blocks, backbone.name)
    metadata = RoutingMetadata(
        num_blocks=num_blocks,
        hidden_size=hidden_size,
        evidence=evidence,
        reads=reads,
        normalise=normalise,
        always_run=tuple(sorted(always_run)),
        scope=scope,
        backbone=backbone,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        package_version=__version__,
        training=dict(training or {}),
        evaluation=dict(evaluation or {}),
    )
    bundle = _parse(path, metadata, files)
    files[ROUTING] = (metadata.model_dump_json(indent=2) + "\n").encode()
    with _writing(path), replacing(path) as staging:
        _refuse_overwriting(path, overwrite)  # again, now that nobody else writes there
        staging.mkdir()
        for name, data in files.items():
            write_durably(staging / name, data)
    return bundle


def check_fits(bundle: Bundle, backbone_fingerprint: str, shape: BackboneShape) -> None:
    """Check that a bundle was made for this backbone.

    Raises:
        BundleError: it was made for another one.
    """
    made_for = bundle.metadata.backbone
    sizes = (bundle.metadata.num_blocks, bundle.metadata.hidden_size)
    found = (shape.num_blocks, shape.hidden_size)
    if sizes != found or made_for.fingerprint != backbone_fingerprint:
        raise BundleError(
            f"bundle {bundle.path} was trained for {shown(made_for.name)} ({sizes[0]} blocks of width {sizes[1]}, "
            f"fingerprint {made_for.fingerprint[:12]!a}), but the model has {found[0]} blocks of width {found[1]} "
            f"and fingerprint {backbone_fingerprint[:12]!a}: use the bundle trained for this model, or adapter 'none'"
        )
    features = _linear_features(shape)
    for name, module in bundle.lora.items():
        _, _, block, _, linear = name.split(".")
        wanted = features[linear]
        if int(block) >= shape.num_blocks or (module.b_OR.shape[0], module.a_RI.shape[1]) != wanted:
            raise BundleError(
                f"the LoRA of {name!r} in {bundle.path} does not fit the model, whose {linear} maps {wanted[1]} to "
                f"{wanted[0]} features: {_AGAIN}"
            )


def fingerprint(backbone_folder: str | Path) -> str:
    """Identify a backbone: sha256 over its sizes and all its 1-D tensors (norms, biases) as float32, in name order.

    Raises:
        BackboneError: no checkpoint of the Qwen2 family there, or damaged weights.
    """
    folder = Path(backbone_folder).expanduser()
    config = read_config(folder)
    sizes = (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_blocks)
    heads = (config.num_heads, config.num_kv_heads, config.head_dim)
    digest = hashlib.sha256(json.dumps([*sizes, *heads]).encode())
    with TensorFiles(folder) as tensors:
        tensors.check(config)
        for name, vector in tensors.vectors().items():
            digest.update(name.encode() + b"\0" + vector.numpy().tobytes())
    return digest.hexdigest()


def _path(folder: str | Path) -> Path:
    try:
        return Path(folder).expanduser().resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null character, an unknown "~name"
        raise BundleError(f"{str(folder)!r} leads to no bundle folder ({error}): give another path") from error


def _read_metadata(path: Path) -> RoutingMetadata:
    try:
        raw = parse_json(read_bounded(path / ROUTING, _MOST_METADATA_BYTES))
    except FileNotFoundError:
        state = f"holds no {ROUTING}" if path.is_dir() else "does not exist"
        raise BundleError(f"bundle folder {path} {state}: give the folder of a trained bundle, or 'none'") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"cannot read {path / ROUTING} ({error}): {_AGAIN}") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != FORMAT:
        raise BundleError(
            f"{path / ROUTING} has format {shown(found)}, and layerroute {__version__} reads format {FORMAT}: "
            "install the version that wrote the bundle, or train it again"
        )
    try:
        metadata = RoutingMetadata.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path / ROUTING} is invalid at {where!r} ({first['msg']}): {_AGAIN}") from error
    if set(metadata.files) not in _FILE_SETS:
        raise BundleError(f"{path / ROUTING} lists the files {sorted(metadata.files)}, which make no bundle: {_AGAIN}")
    return metadata


def _read_verified(path: Path, digest: str) -> bytes:
    try:
        data = read_bounded(path, _MOST_BYTES)
    except (OSError, ValueError) as error:
        raise BundleError(f"the bundle lacks {path} ({getattr(error, 'strerror', None) or error}): {_AGAIN}") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"{path} is truncated or was changed (its sha256 is not the one in {ROUTING}): {_AGAIN}")
    return data


def _parse(path: Path, metadata: RoutingMetadata, contents: Mapping[str, bytes]) -> Bundle:
    if any(not 0 <= block < metadata.num_blocks for block in metadata.always_run):
        raise BundleError(f"always_run names blocks that do not exist: {metadata.always_run}: {_AGAIN}")
    lora = parse_adapter(contents[ADAPTER_CONFIG], contents[ADAPTER_WEIGHTS]) if ADAPTER_CONFIG in contents else {}
    return Bundle(path, metadata, *_parse_routers(contents[ROUTERS], metadata), lora)


def _parse_routers(data: bytes, metadata: RoutingMetadata) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = load_tensors(ROUTERS, data)
    num_blocks, hidden_size = metadata.num_blocks, metadata.hidden_size
    shapes = {
        "gates.weight": (num_blocks, hidden_size),
        "gates.bias": (num_blocks,),
        "kind.weight": (hidden_size,),
        "kind.bias": (1,),
    }
    if set(tensors) != set(shapes):
        raise BundleError(f"{ROUTERS} holds {sorted(tensors)} instead of {sorted(shapes)}: {_AGAIN}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise BundleError(f"{name} in {ROUTERS} is {tensor.dtype} {tuple(tensor.shape)}, not float32 {shape}")
        if not torch.isfinite(tensor).all():
            raise BundleError(f"{name} in {ROUTERS} holds NaN or infinite values: train the bundle again")
    return tensors["gates.weight"], tensors["gates.bias"], tensors["kind.weight"], tensors["kind.bias"]


def _linear_features(shape: BackboneShape) -> dict[str, tuple[int, int]]:
    """Output and input features of the linear modules of a block."""
    hidden, queries, kv, inner = shape.hidden_size, shape.query_size, shape.kv_size, shape.intermediate_size
    attention = {
        "q_proj": (queries, hidden),
        "k_proj": (kv, hidden),
        "v_proj": (kv, hidden),
        "o_proj": (hidden, queries),
    }
    return attention | {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = f"cannot write the bundle {path} ({error.strerror})"
        raise BundleError(f"{why}: make room on the disk, or choose another folder") from error


def _refuse_overwriting(path: Path, overwrite: bool) -> None:
    there = standing(path)
    if not there.exists():
        return
    if not overwrite:
        raise BundleError(f"{path} exists: choose another folder, or pass overwrite=True to replace the bundle in it")
    if not there.is_dir() or (any(there.iterdir()) and not (there / ROUTING).exists()):
        raise BundleError(f"{path} exists and is no bundle, so it is not overwritten: choose another folder")
