"""Masks over the vocabulary, packed: bit t % 32 of word t // 32 allows token t. W words for V tokens, int32.

This is what a grammar fills in and what kernels read, so that nothing of the vocabulary's size is touched in between.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def num_words(vocab_size: int) -> int:
    """How many words a mask takes."""
    return -(-vocab_size // 32)


def mask_of(ids: Iterable[int], vocab_size: int) -> Tensor:
    """The mask, int32 [W] on the CPU, that allows these tokens alone."""
    mask_V = torch.zeros(vocab_size, dtype=torch.bool)
    mask_V[list(ids)] = True
    return pack(mask_V)


def pack(mask_V: Tensor) -> Tensor:
    """Words, int32 [W], of a bool mask [V]; both on the CPU."""
    bytes_of_mask = np.packbits(mask_V.numpy(), bitorder="little")
    padded = np.zeros(4 * num_words(len(mask_V)), dtype=np.uint8)
    padded[: len(bytes_of_mask)] = bytes_of_mask
    return torch.from_numpy(padded.view(np.int32))


def unpack(mask_RW: Tensor, vocab_size: int) -> Tensor:
    """Bool [R, V] of the words [R, W] of several masks, on their device."""
    if mask_RW.device.type == "cpu":
        bits_RV = np.unpackbits(mask_RW.numpy().view(np.uint8), axis=1, count=vocab_size, bitorder="little")
        return torch.from_numpy(bits_RV.view(np.bool_))
    bit_32 = torch.arange(32, dtype=torch.int32, device=mask_RW.device)
    return ((mask_RW[..., None] >> bit_32) & 1).flatten(1)[:, :vocab_size] != 0
