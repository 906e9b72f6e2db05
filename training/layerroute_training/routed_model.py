"""RoutedModel: a frozen Qwen2 of transformers with LoRA and gates, and the forward pass that trains and measures them.

The loop over the blocks is ours, the blocks are transformers' decoder layers. A gate reads the prompt's state before
its own block, or before the last one, and decides whether the tokens in its scope take its block. Rows are padded on
the right and attention is causal without a mask, so padding reaches no real token.

Shape suffixes: B steps of a batch, T tokens, A scored tokens, L blocks, D hidden, H head size.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM

from layerroute.backbone.config import read_config
from layerroute.backbone.documents import AGAIN
from layerroute.backbone.tensor_files import TensorFiles
from layerroute.engine.loading import resolve_device, resolve_dtype
from layerroute.errors import CheckpointError
from layerroute.routers.gates import linear_logits, pool_states
from layerroute_training.config import ConstrainedObjective, LoraConfig, PaperObjective, RouterConfig, TrainConfig
from layerroute_training.errors import ConfigError
from layerroute_training.scoring import scored_tokens, token_nll

ADAPTER = "default"
"""Name of the LoRA among PEFT's adapters."""


@dataclass(frozen=True)
class RoutedOutput:
    """What one forward pass found.

    Attributes:
        nll_A: loss of every scored token in nats, float32.
        step_A: the row of the batch that a scored token belongs to.
        run_BL: 1.0 where the step's tokens take the block, 0.0 where they pass by; its gradient is `soft_BL`'s.
        soft_BL: probability of running; 1 where a block has no choice.
        kind_logit_B: belief that the step calls a tool.
    """

    nll_A: Tensor
    step_A: Tensor
    run_BL: Tensor
    soft_BL: Tensor
    kind_logit_B: Tensor


class RoutedModel(nn.Module):
    """Backbone (frozen), LoRA, gates and kind head.

    Attributes:
        backbone: the frozen model with the LoRA inside.
        gates_weight_LD, gates_bias_L, kind_weight_D, kind_bias: as in a bundle, float32.
        routers: configuration of the gates.
    """

    def __init__(self, backbone: Qwen2ForCausalLM, config: TrainConfig) -> None:
        """Freeze `backbone` and put neutral gates and a LoRA that changes nothing yet around it.

        The seed of `config` decides the LoRA's start. With the paper's objective there is no kind to learn, and with
        a static program no gates: those parameters are then frozen.

        Raises:
            ConfigError: `always_run` names blocks that do not exist, or the LoRA targets fit no projection.
        """
        super().__init__()
        L, D = backbone.config.num_hidden_layers, backbone.config.hidden_size
        if any(block >= L for block in config.routers.always_run):
            raise ConfigError(f"routers.always_run = {config.routers.always_run}: the model has blocks 0 to {L - 1}")
        self.routers = config.routers
        self.backbone = backbone.requires_grad_(False)
        _insert_lora(backbone, config.lora, config.seed)
        device = backbone.model.embed_tokens.weight.device
        self.gates_weight_LD = nn.Parameter(torch.zeros(L, D, device=device))
        self.gates_bias_L = nn.Parameter(_first_biases(config.routers, L).to(device))
        self.kind_weight_D = nn.Parameter(torch.zeros(D, device=device))
        self.kind_bias = nn.Parameter(torch.zeros(1, device=device))
        for gates in (self.gates_weight_LD, self.gates_bias_L):
            gates.requires_grad_(config.objective.name != "static")
        for kind in (self.kind_weight_D, self.kind_bias):
            kind.requires_grad_(isinstance(config.objective, ConstrainedObjective) and config.objective.kind_weight > 0)
        # Gates learn what their decision does to the loss. The paper also bends the backbone's states to please them.
        self._reads_detached = not isinstance(config.objective, PaperObjective)
        self._has_choice_L: Tensor
        has_choice = [float(block not in config.routers.always_run) for block in range(L)]
        self.register_buffer("_has_choice_L", torch.tensor(has_choice, device=device), persistent=False)

    @classmethod
    def from_config(cls, config: TrainConfig, folder: Path) -> "RoutedModel":
        """The model of a run, on the CPU, from the checkpoint in `folder` (see `resolve_checkpoint`).

        Raises:
            BackboneError: no complete checkpoint of the Qwen2 family there.
            ConfigError: as the constructor says.
        """
        dtype = resolve_dtype(config.precision, resolve_device("auto"))
        return cls(load_qwen2(folder, dtype), config)

    def trainable(self) -> dict[str, nn.Parameter]:
        """What training changes, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def lora_modules(self) -> dict[str, Any]:
        """PEFT's layers by the name of the projection, such as "model.layers.0.self_attn.q_proj"."""
        return {name: module for name, module in self.backbone.named_modules() if hasattr(module, "lora_A")}

    @contextmanager
    def bare(self) -> Iterator[None]:
        """Switch the LoRA off: the backbone as it came."""
        modules = self.lora_modules().values()
        trained = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        for module in modules:
            module.enable_adapters(False)
        try:
            yield
        finally:
            for module in modules:
                module.enable_adapters(True)
            self.backbone.requires_grad_(False)
            for parameter in trained:
                parameter.requires_grad_(True)

    def forward(
        self,
        tokens_BT: Tensor,
        prompt_lengths_B: Tensor,
        lengths_B: Tensor,
        *,
        run_BL: Tensor | None = None,
        noise_BL: Tensor | None = None,
        every_token: bool = False,
        scored_at_A: Tensor | None = None,
    ) -> RoutedOutput:
        """Run steps and score their tokens.

        Args:
            tokens_BT: prompt and answer of each step, padded on the right with any token.
            prompt_lengths_B, lengths_B: tokens of the prompt, and of prompt and answer together.
            run_BL: run these blocks (1 or 0) and not those that the gates choose.
            noise_BL: added to the gates' logits.
            every_token: score the prompt's tokens too.
            scored_at_A: what `scored_tokens` gives for the batch; computed here if missing, for which a GPU has to be
                waited for.

        Raises:
            RouterError: lengths that contradict the batch (only where `scored_at_A` is missing).
        """
        T = tokens_BT.shape[1]
        if scored_at_A is None:
            scored_at_A = scored_tokens(prompt_lengths_B, lengths_B, T, every_token=every_token).to(tokens_BT.device)
        model = self.backbone.model
        hidden_BTD = model.embed_tokens(tokens_BT)
        if torch.is_grad_enabled():
            hidden_BTD.requires_grad_(True)  # then every block, the first too, is one and the same compiled graph
        positions_T = torch.arange(T, device=tokens_BT.device)
        cos_1TH, sin_1TH = model.rotary_emb(hidden_BTD, positions_T[None])
        governed_BT = (positions_T >= prompt_lengths_B[:, None]) | (self.routers.scope == "sequence")
        run_layer = partial(_compiled_block() if hidden_BTD.is_cuda else _run_block, cos_1TH=cos_1TH, sin_1TH=sin_1TH)
        at_once = self.routers.reads == "last_block"
        given_BL = run_BL
        if at_once and run_BL is None:
            states_BD = self._read(self._before_last_block(hidden_BTD, run_layer), prompt_lengths_B)
            soft_BL, given_BL = self._decide(states_BD, noise_BL, slice(None))
        soft, run = [], []
        for block, layer in enumerate(model.layers):
            read_BD = self._read(hidden_BTD, prompt_lengths_B)
            if not at_once:
                soft_B1, run_B1 = self._decide(read_BD, noise_BL, slice(block, block + 1))
                soft.append(soft_B1)
            run.append(run_B1[:, 0] if given_BL is None else given_BL[:, block].float())
            hidden_BTD = run_layer(layer, hidden_BTD, governed_BT=governed_BT, run_B=run[-1])
        if not at_once:
            soft_BL = torch.cat(soft, 1)
        elif run_BL is not None:  # a program changes nothing that the prompt's tokens see: these are its states
            soft_BL, _ = self._decide(read_BD, noise_BL, slice(None))
        kind_logit_B = linear_logits(self.kind_weight_D, self.kind_bias, read_BD, self.routers.normalise)
        states_AD = model.norm(hidden_BTD.flatten(0, 1).index_select(0, scored_at_A))
        targets_A = tokens_BT.flatten().index_select(0, scored_at_A + 1)
        nll_A = token_nll(states_AD, targets_A, self.backbone.lm_head.weight)
        step_A = scored_at_A // T
        return RoutedOutput(nll_A, step_A, torch.stack(run, 1), soft_BL, kind_logit_B)

    @torch.no_grad()
    def _before_last_block(self, hidden_BTD: Tensor, run_layer: Callable[..., Tensor]) -> Tensor:
        """States that enter the last block where every token takes every block: what gates read to decide at once.

        They are the prompt's only; its tokens do not see the answer's. No gradient is lost: gates read states detached.
        """
        rows, length = hidden_BTD.shape[:2]
        nowhere_BT = torch.zeros(rows, length, dtype=torch.bool, device=hidden_BTD.device)
        ones_B = torch.ones(rows, device=hidden_BTD.device)
        for layer in self.backbone.model.layers[:-1]:
            hidden_BTD = run_layer(layer, hidden_BTD, governed_BT=nowhere_BT, run_B=ones_B)
        return hidden_BTD

    def _read(self, hidden_BTD: Tensor, prompt_lengths_B: Tensor) -> Tensor:
        """What the gate of a block reads of the states that enter it, float32 [B, D]."""
        if self._reads_detached:
            hidden_BTD = hidden_BTD.detach()
        if self.routers.pooling != "padded":
            return pool_states(hidden_BTD, prompt_lengths_B, self.routers.pooling)
        # The paper's training read padding and answer too (its evaluation had neither): never outside of training.
        return (
            hidden_BTD.mean(1, dtype=torch.float32)
            if self.training
            else pool_states(hidden_BTD, prompt_lengths_B, "mean")
        )

    def _decide(self, read_BD: Tensor, noise_BL: Tensor | None, blocks: slice) -> tuple[Tensor, Tensor]:
        """Probability and decision [B, blocks] of running some blocks, all from the same states.

        Straight through: hard forward, the sigmoid's gradient.
        """
        weight_LD, bias_L = self.gates_weight_LD[blocks], self.gates_bias_L[blocks]
        logit_BL = linear_logits(weight_LD, bias_L, read_BD[:, None], self.routers.normalise)
        if noise_BL is not None:
            logit_BL = logit_BL + noise_BL[:, blocks]
        choice_L = self._has_choice_L[blocks]
        soft_BL = torch.sigmoid(logit_BL) * choice_L + (1 - choice_L)
        hard_BL = torch.where(choice_L > 0, (logit_BL > 0).float(), 1.0)
        return soft_BL, hard_BL + (soft_BL - soft_BL.detach())


def load_qwen2(folder: Path, dtype: torch.dtype) -> Qwen2ForCausalLM:
    """The checkpoint in `folder` as transformers runs it, with PyTorch's fused attention, on the CPU.

    Raises:
        BackboneError: not of the Qwen2 family, or weights that are missing or damaged.
    """
    config = read_config(folder)
    with TensorFiles(folder) as tensors:
        tensors.check(config)
    try:
        model: Qwen2ForCausalLM = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    except Exception as error:  # it reads more of the folder than this runtime does, and raises many types
        raise CheckpointError(
            f"transformers cannot load {folder} ({type(error).__name__}: {str(error)[:300]!a}): {AGAIN}"
        ) from error
    return model


def _run_block(
    layer: nn.Module, hidden_BTD: Tensor, cos_1TH: Tensor, sin_1TH: Tensor, governed_BT: Tensor, run_B: Tensor
) -> Tensor:
    """One decoder layer; tokens that are governed keep their state where `run_B` is 0."""
    dtype = hidden_BTD.dtype
    # The LoRA's master weights are float32; autocast has them follow the states and not the other way round.
    with torch.autocast(hidden_BTD.device.type, dtype, enabled=dtype != torch.float32):
        out_BTD = layer(hidden_BTD, attention_mask=None, position_embeddings=(cos_1TH, sin_1TH))
    gate_BT1 = torch.where(governed_BT, run_B[:, None], 1.0)[..., None]
    # Exact for gates of 0 and 1, and its gradient is that of the straight-through gate.
    mixed_BTD: Tensor = gate_BT1 * out_BTD + (1 - gate_BT1) * hidden_BTD
    return mixed_BTD.to(dtype)


@cache
def _compiled_block() -> Callable[..., Tensor]:
    """`_run_block` compiled: one graph serves all layers, and new graphs come with new shapes and modes only."""
    # A run with its evaluation has a dozen: training and measuring, with and without LoRA, lengths fixed and varying.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
    return torch.compile(_run_block)


def _insert_lora(backbone: Qwen2ForCausalLM, lora: LoraConfig, seed: int) -> None:
    """Put PEFT's LoRA layers into the backbone: A uniform as Kaiming has it, B zero, float32, decided by the seed."""
    try:
        import peft
    except ImportError as error:
        raise ImportError("training needs PEFT: pip install layerroute[train]") from error
    if not lora.targets:
        return
    config = peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=list(lora.targets)
    )
    try:
        peft.inject_adapter_in_model(config, backbone, adapter_name=ADAPTER)
    except ValueError as error:
        raise ConfigError(f"lora.targets = {lora.targets}: {error}") from error
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if hasattr(module, "lora_A"):
            module.cast_input_dtype_enabled = False
            a, b = module.lora_A[ADAPTER].float(), module.lora_B[ADAPTER].float()
            bound = a.in_features**-0.5
            with torch.no_grad():
                a.weight.copy_((torch.rand(a.weight.shape, generator=generator) * 2 - 1) * bound)
                b.weight.zero_()


def _first_biases(routers: RouterConfig, num_blocks: int) -> Tensor:
    """Biases [L] of the gates at the start: the same for all, or the paper's band in the middle apart."""
    band = routers.run_bias if routers.band_bias is None else routers.band_bias
    in_band = [8 * num_blocks <= 24 * block < 17 * num_blocks for block in range(num_blocks)]
    return torch.tensor([band if inside else routers.run_bias for inside in in_band])
