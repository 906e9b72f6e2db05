"""Losses of chosen tokens, without ever holding the logits of all of them.

Shape suffixes: B steps of a batch, T tokens, A scored tokens, C tokens of a chunk, D hidden, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from layerroute.errors import RouterError

_CHUNK_LOGITS = 1 << 27
"""Logits held at a time; bounds memory (256 MiB of bfloat16) whatever the vocabulary."""


def scored_tokens(prompt_lengths_B: Tensor, lengths_B: Tensor, num_tokens: int, *, every_token: bool = False) -> Tensor:
    """Where the states are that predict the scored tokens: indices [A] into the flattened [B * T] states.

    Scored are the answers' tokens, or with `every_token` all tokens but the first of each step (the paper's loss,
    arXiv 2606.01838). Call it with CPU tensors before the batch moves to a device: the size of the result depends on
    the values, so a GPU would have to be waited for.

    Raises:
        RouterError: a prompt without tokens, an answer without tokens, or a step longer than its row.
    """
    prompts, ends = prompt_lengths_B.cpu().numpy(), lengths_B.cpu().numpy()
    if (prompts < 1).any() or (ends <= prompts).any() or (ends > num_tokens).any():
        raise RouterError(
            f"prompt lengths {prompts.tolist()} and lengths {ends.tolist()} are not those of steps with a prompt and "
            f"an answer in rows of {num_tokens} tokens: build the batch with collate()"
        )
    begins = np.zeros_like(prompts) if every_token else prompts - 1
    spans = [row * num_tokens + np.arange(b, e - 1) for row, (b, e) in enumerate(zip(begins, ends, strict=True))]
    return torch.from_numpy(np.concatenate(spans))


def token_nll(states_AD: Tensor, targets_A: Tensor, head_VD: Tensor) -> Tensor:
    """Cross-entropy of each target in nats, float32 [A].

    Args:
        states_AD: normed states, in the dtype of the head.
        targets_A: the token that each state should predict.
        head_VD: LM head, frozen.
    """
    nll_A: Tensor = _TokenNll.apply(states_AD, targets_A, head_VD)  # type: ignore[no-untyped-call]
    return nll_A


class _TokenNll(torch.autograd.Function):
    """The gradient of a token's loss in its state is one vector, whatever the loss is multiplied with later.

    So it is computed with the loss, chunk by chunk: the logits are made once and not again for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, states_AD: Tensor, targets_A: Tensor, head_VD: Tensor) -> Tensor:
        nll_A = torch.empty(len(states_AD), dtype=torch.float32, device=states_AD.device)
        slope_AD = torch.empty_like(states_AD) if ctx.needs_input_grad[0] else None
        size = max(64, _CHUNK_LOGITS // len(head_VD) // 64 * 64)
        losses = _fused(_losses) if states_AD.is_cuda else _losses
        both = _fused(_losses_and_slopes) if states_AD.is_cuda else _losses_and_slopes
        for begin in range(0, len(states_AD), size):
            chunk = slice(begin, begin + size)
            logits_CV = F.linear(states_AD[chunk], head_VD)
            if slope_AD is None:
                nll_A[chunk] = losses(logits_CV, targets_A[chunk])
            else:
                nll_A[chunk], slope_CV = both(logits_CV, targets_A[chunk])
                torch.mm(slope_CV, head_VD, out=slope_AD[chunk])
        if slope_AD is not None:
            ctx.save_for_backward(slope_AD)
        return nll_A

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope_AD,) = ctx.saved_tensors
        return (gradients[0][:, None] * slope_AD).to(slope_AD.dtype), None, None


def _losses(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    logits_CV = logits_CV.float()
    return torch.logsumexp(logits_CV, -1) - logits_CV.gather(-1, targets_C[:, None])[:, 0]


def _losses_and_slopes(logits_CV: Tensor, targets_C: Tensor) -> tuple[Tensor, Tensor]:
    """The losses, and their gradients in the logits."""
    real_CV = logits_CV.float()
    log_total_C = torch.logsumexp(real_CV, -1)
    nll_C = log_total_C - real_CV.gather(-1, targets_C[:, None])[:, 0]
    is_target_CV = torch.arange(real_CV.shape[1], device=real_CV.device) == targets_C[:, None]
    slope_CV = torch.exp(real_CV - log_total_C[:, None]) - is_target_CV.float()
    return nll_C, slope_CV.to(logits_CV.dtype)


@cache
def _fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled once for any number of tokens."""
    return torch.compile(function, dynamic=True)
