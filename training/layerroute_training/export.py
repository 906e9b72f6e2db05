"""From a trained RoutedModel to a bundle, and from a bundle to a RoutedModel that can be measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layerroute.backbone.config import read_config
from layerroute.bundle import BackboneIdentity, Bundle, check_fits, fingerprint, load_bundle, save_bundle
from layerroute.lora import LoraModule
from layerroute_training.config import LoraConfig, RouterConfig, TrainConfig
from layerroute_training.routed_model import ADAPTER, RoutedModel


def save_routed(
    model: RoutedModel,
    folder: Path,
    *,
    backbone: BackboneIdentity,
    training: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Write a bundle, which `peft.PeftModel.from_pretrained` opens as well (its LoRA).

    Args:
        model: what was trained.
        folder: appears, or is replaced, as a whole.
        backbone: name of the frozen model and `layerroute.bundle.fingerprint` of its folder.
        training, evaluation: what the bundle says of both, as JSON values.
        overwrite: replace a bundle that is there.

    Raises:
        BundleError: the folder exists and may not be replaced.
    """
    lora = {
        name: LoraModule(
            module.lora_A[ADAPTER].weight.detach().float().cpu(),
            module.lora_B[ADAPTER].weight.detach().float().cpu(),
            module.scaling[ADAPTER],
        )
        for name, module in model.lora_modules().items()
    }
    return save_bundle(
        folder,
        gates_weight_LD=model.gates_weight_LD,
        gates_bias_L=model.gates_bias_L,
        kind_weight_D=model.kind_weight_D,
        kind_bias=model.kind_bias,
        evidence="last" if model.routers.pooling == "last" else "mean",  # "padded" exists in training only
        reads=model.routers.reads,
        normalise=model.routers.normalise,
        always_run=model.routers.always_run,
        scope=model.routers.scope,
        backbone=backbone,
        lora=lora,
        training=training,
        evaluation=evaluation,
        overwrite=overwrite,
    )


def load_routed(bundle_folder: Path, backbone_folder: Path, precision: str = "auto") -> RoutedModel:
    """A bundle on its backbone, on the CPU, frozen and in evaluation mode.

    Args:
        bundle_folder: the bundle.
        backbone_folder: checkpoint that it was trained for.
        precision: "float32", "bfloat16", or "auto" as in `TrainConfig`.

    Raises:
        BundleError: damaged, or made for another backbone.
        BackboneError: no complete checkpoint of the Qwen2 family there.
    """
    bundle = load_bundle(bundle_folder)
    check_fits(bundle, fingerprint(backbone_folder), read_config(backbone_folder).shape(torch.bfloat16))
    metadata = bundle.metadata
    routers = RouterConfig(
        scope=metadata.scope,
        pooling=metadata.evidence,
        reads=metadata.reads,
        normalise=metadata.normalise,
        always_run=metadata.always_run,
    )
    ranks = {len(module.a_RI) for module in bundle.lora.values()}
    lora = LoraConfig(
        rank=max(ranks, default=1), targets=tuple(sorted({name.rpartition(".")[2] for name in bundle.lora}))
    )
    config = TrainConfig.model_validate({"routers": routers, "lora": lora, "precision": precision})
    model = RoutedModel.from_config(config, backbone_folder).requires_grad_(False).eval()
    model.gates_weight_LD.copy_(bundle.gates_weight_LD)
    model.gates_bias_L.copy_(bundle.gates_bias_L)
    model.kind_weight_D.copy_(bundle.kind_weight_D)
    model.kind_bias.copy_(bundle.kind_bias)
    for name, module in model.lora_modules().items():
        if name in bundle.lora:  # where it is not, the new LoRA changes nothing
            module.lora_A[ADAPTER].weight.copy_(bundle.lora[name].a_RI)
            module.lora_B[ADAPTER].weight.copy_(bundle.lora[name].b_OR)
            module.scaling[ADAPTER] = bundle.lora[name].scale
    return model
