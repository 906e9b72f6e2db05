"""Decode steps as replays of CUDA graphs (the `graph` backend).

A graph holds one program over one KV cache, for a bucket of cached positions and a bucket of new tokens. The host
copies ids and a position to the device, replays, and reads nothing back: the caller waits once, for the token.
New tokens beyond the real ones are padding at later positions: causality keeps them from every real token, and the
KV they leave behind is overwritten before any later token may look at it.

Shape suffixes: T new tokens (padded to a bucket), P bucket of positions, D hidden size, Q query heads, K KV heads,
G query heads per KV head, H head_dim, V vocabulary.
"""

import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layerroute.backbone.kv_cache import KVCache, Visit
from layerroute.backbone.model import Backbone, rotate

MAX_GRAPHS = 64
TOKEN_BUCKETS = (1, 4, 16)
MIN_POSITIONS = 512

_Parts = tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., Tensor], Callable[..., Tensor]]


@dataclass(slots=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    logits_V: Tensor
    cache: KVCache  # keeps the memory alive that the graph points to


class GraphStepper:
    """Captures a graph when a program, cache and bucket are first met, and replays it afterwards."""

    name = "graph"
    one_by_one = False

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._forward = BucketedForward(backbone)
        self.reason = f"the device is {torch.cuda.get_device_name(backbone.device)}; {self._forward.reason}"
        self._graphs: OrderedDict[tuple[tuple[Visit, ...], int, int, int], _Graph] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()

    def step(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        """Feed tokens at positions `start..`; return the logits [V] after the last one."""
        largest = TOKEN_BUCKETS[-1]
        while len(ids) > largest:
            self._replay(ids[:largest], start, visits, cache)
            ids, start = ids[largest:], start + largest
        return self._replay(ids, start, visits, cache)

    def _replay(self, ids: Sequence[int], start: int, visits: tuple[Visit, ...], cache: KVCache) -> Tensor:
        num_tokens = next(bucket for bucket in TOKEN_BUCKETS if bucket >= len(ids))
        if start + num_tokens > cache.capacity:  # no room for padding: one token after the other
            for offset, token in enumerate(ids[:-1]):
                self._replay([token], start + offset, visits, cache)
            ids, start, num_tokens = ids[-1:], start + len(ids) - 1, 1
        self._forward.set(ids, start, num_tokens)
        captured = self._captured(visits, cache, num_tokens, start + num_tokens)
        captured.graph.replay()
        for visit in visits:
            self._backbone.executed_L[visit.block] += len(ids)
        return captured.logits_V

    def _captured(self, visits: tuple[Visit, ...], cache: KVCache, num_tokens: int, end: int) -> _Graph:
        positions = MIN_POSITIONS
        while positions < end:
            positions *= 2
        positions = min(positions, cache.capacity)
        key = (visits, id(cache), num_tokens, positions)
        captured = self._graphs.pop(key, None) or self._capture(visits, cache, num_tokens, positions)
        self._graphs[key] = captured
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return captured

    def _capture(self, visits: tuple[Visit, ...], cache: KVCache, num_tokens: int, positions: int) -> _Graph:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        # The warm-up writes the KV that the replay will write, and that of the padding behind it.
        with torch.cuda.stream(side):
            for _ in range(2):
                self._forward.run(visits, cache, num_tokens, positions)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            logits_V = self._forward.run(visits, cache, num_tokens, positions)
        return _Graph(graph, logits_V, cache)


class BucketedForward:
    """A decode step whose token ids and position are data on the device: what a graph captures.

    Its three parts of a block are functions of tensors alone, so `torch.compile` can fuse each of them.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        c = self._config = backbone.config
        self._cos_PH, self._sin_PH = backbone.rope_tables(c.max_positions)
        self._arange_P = torch.arange(c.max_positions, device=backbone.device)
        self._ids_T = torch.zeros(TOKEN_BUCKETS[-1], dtype=torch.int64, device=backbone.device)
        self._start = torch.zeros(1, dtype=torch.int64, device=backbone.device)
        self._last = torch.zeros(1, dtype=torch.int64, device=backbone.device)
        self._plain: _Parts = (self._before_attention, self._attention, self._after_attention)
        self._fused, self.reason = self._compile()

    def set(self, ids: Sequence[int], start: int, num_tokens: int) -> None:
        """Put token ids, padded to `num_tokens`, and the position of the first on the device."""
        padded = [*ids, *([0] * (num_tokens - len(ids)))]
        self._ids_T[:num_tokens].copy_(torch.tensor(padded))
        self._start.fill_(start)
        self._last.fill_(len(ids) - 1)

    def run(self, visits: tuple[Visit, ...], cache: KVCache, num_tokens: int, positions: int) -> Tensor:
        """Logits [V] after the last real token; attention looks at the first `positions` positions under a mask."""
        w = self._backbone.weights
        position_T = self._start + self._arange_P[:num_tokens]
        cos_T1H = self._cos_PH.index_select(0, position_T).unsqueeze(1)
        sin_T1H = self._sin_PH.index_select(0, position_T).unsqueeze(1)
        bias_TP = torch.where(self._arange_P[:positions] <= position_T.unsqueeze(1), 0.0, float("-inf"))
        before, attend, after = self._fused if num_tokens == 1 else self._plain
        hidden_TD = F.embedding(self._ids_T[:num_tokens], w.embed_VD)
        for visit in visits:
            i, keys_KCH, values_KCH = visit.block, cache.keys_SKTH[visit.slot], cache.values_SKTH[visit.slot]
            queries_TQH, keys_KTH, values_KTH = before(
                hidden_TD, w.attn_norm_LD[i], w.qkv_LED[i], w.qkv_bias_LE[i], cos_T1H, sin_T1H
            )
            keys_KCH.index_copy_(1, position_T, keys_KTH)
            values_KCH.index_copy_(1, position_T, values_KTH)
            attended = attend(queries_TQH, keys_KCH[:, :positions], values_KCH[:, :positions], bias_TP)
            hidden_TD = after(hidden_TD, attended, w.o_LDH[i], w.mlp_norm_LD[i], w.gate_up_LFD[i], w.down_LDI[i])
        return self._backbone.logits(hidden_TD.index_select(0, self._last))[0]

    def _compile(self) -> tuple[_Parts, str]:
        if self._backbone.device.type != "cuda":
            return self._plain, "plain kernels"
        if importlib.util.find_spec("triton") is None:
            return self._plain, "plain kernels, since Triton is not installed"
        fused: _Parts = (
            torch.compile(self._before_attention),
            torch.compile(self._attention, dynamic=True),
            torch.compile(self._after_attention),
        )
        return fused, "single-token kernels fused by torch.compile"

    def _before_attention(
        self, hidden_TD: Tensor, norm_D: Tensor, qkv_ED: Tensor, bias_E: Tensor, cos_T1H: Tensor, sin_T1H: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        c = self._config
        x_TD = F.rms_norm(hidden_TD, (c.hidden_size,), norm_D, c.rms_eps)
        qkv = F.linear(x_TD, qkv_ED, bias_E).view(len(hidden_TD), -1, c.head_dim)
        rotated = rotate(qkv[:, : c.num_heads + c.num_kv_heads], cos_T1H, sin_T1H)
        keys_KTH = rotated[:, c.num_heads :].transpose(0, 1).contiguous()
        values_KTH = qkv[:, c.num_heads + c.num_kv_heads :].transpose(0, 1).contiguous()
        return rotated[:, : c.num_heads].contiguous(), keys_KTH, values_KTH

    def _attention(self, queries_TQH: Tensor, keys_KPH: Tensor, values_KPH: Tensor, bias_TP: Tensor) -> Tensor:
        c = self._config
        T, group = len(queries_TQH), c.num_heads // c.num_kv_heads
        queries_KTGH = queries_TQH.view(T, c.num_kv_heads, group, c.head_dim).transpose(0, 1)
        flat = queries_KTGH.reshape(c.num_kv_heads, T * group, c.head_dim)
        scores = torch.matmul(flat, keys_KPH.transpose(1, 2)).float() * c.head_dim**-0.5
        scores = scores.view(c.num_kv_heads, T, group, -1) + bias_TP.unsqueeze(1)
        weights = scores.softmax(-1).to(values_KPH.dtype).view(c.num_kv_heads, T * group, -1)
        attended = torch.matmul(weights, values_KPH).view(c.num_kv_heads, T, group, c.head_dim)
        return attended.transpose(0, 1).reshape(T, -1)

    def _after_attention(
        self, hidden_TD: Tensor, attended: Tensor, o_DH: Tensor, norm_D: Tensor, gate_up_FD: Tensor, down_DI: Tensor
    ) -> Tensor:
        c = self._config
        hidden_TD = hidden_TD + F.linear(attended, o_DH)
        x_TD = F.rms_norm(hidden_TD, (c.hidden_size,), norm_D, c.rms_eps)
        gate_TI, up_TI = F.linear(x_TD, gate_up_FD).chunk(2, dim=-1)
        return hidden_TD + F.linear(F.silu(gate_TI) * up_TI, down_DI)
