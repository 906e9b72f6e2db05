"""FLOPs and bytes of block visits, forward passes and decode steps, from exact token counts.

No torch here. A multiply-add counts as 2 FLOPs. Attention is counted on the query x key rectangle that runs, as
`torch.utils.flop_counter` does, and not on its causal half. Norms, activations and rotary embeddings, well below
1 % together, are left out, as they are there.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """The sizes of a Qwen2-family backbone that its cost depends on.

    Attributes:
        bytes_per_weight: bytes of one weight, and of one element of the KV cache.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    bytes_per_weight: int

    @property
    def query_size(self) -> int:
        """Width of the queries of all heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the keys (or of the values) of all KV heads together."""
        return self.num_kv_heads * self.head_dim

    @property
    def block_matrix_weights(self) -> int:
        """Weights in the matrices of one block: four attention projections and three of the MLP."""
        attention = self.hidden_size * (2 * self.query_size + 2 * self.kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size

    @property
    def block_weights(self) -> int:
        """All weights of one block: matrices, biases of queries, keys and values, and two norms."""
        return self.block_matrix_weights + self.query_size + 2 * self.kv_size + 2 * self.hidden_size


def block_flops(shape: BackboneShape, new_tokens: int, context_start: int) -> int:
    """FLOPs of one visit of one block by `new_tokens` tokens that follow `context_start` cached ones."""
    attention_pairs = new_tokens * (context_start + new_tokens)
    scores_and_values = 2 * attention_pairs * shape.query_size
    return 2 * (new_tokens * shape.block_matrix_weights + scores_and_values)


def lm_head_flops(shape: BackboneShape, positions: int) -> int:
    """FLOPs of the LM head at `positions` positions."""
    return 2 * positions * shape.hidden_size * shape.vocab_size


def forward_flops(
    shape: BackboneShape, num_visits: int, new_tokens: int, context_start: int, logit_positions: int
) -> int:
    """FLOPs of a forward pass.

    Args:
        shape: sizes of the backbone.
        num_visits: block visits of each token (`LayerProgram.num_visits`).
        new_tokens: tokens computed in this pass; `context_start`: tokens before them whose KV is cached.
        logit_positions: positions whose logits are computed: 1 for a prefill that only needs the next token.
    """
    return num_visits * block_flops(shape, new_tokens, context_start) + lm_head_flops(shape, logit_positions)


def decode_step_bytes(shape: BackboneShape, num_visits: int, context_start: int, rows: int = 1) -> int:
    """Bytes that a decode step of one token must move: weights and KV. Of a step of several rows, one row's part.

    Read: the weights of every visited block (once per visit), one embedding row, the final norm and the LM head, and
    the KV of `context_start` cached tokens in the slot of every visit. Written: one token's KV per visit.
    """
    kv = num_visits * (context_start + 1) * 2 * shape.kv_size
    ends = 2 * shape.hidden_size + shape.hidden_size * shape.vocab_size
    return shape.bytes_per_weight * (kv + (num_visits * shape.block_weights + ends) // rows)
