"""A step report to test with: a tool call of four blocks, one of them skipped."""

from layerroute.report import StepKind, StepReport, Timings, VisitCounts


def make_step(**changes):
    fields = {
        "model": "tiny",
        "device": "cpu",
        "dtype": "float32",
        "backend": "eager",
        "router": "gates",
        "reason": "expects tool call",
        "scope": "generation",
        "kind": StepKind.TOOL_CALL,
        "predicted_kind": StepKind.TOOL_CALL,
        "tool_call_probability": 0.9,
        "num_blocks": 4,
        "program": "0-2",
        "nominal_program": "0-2",
        "visits_per_block": (1, 1, 1, 0),
        "prefill": VisitCounts(executed=40),
        "decode": VisitCounts(executed=27, skipped=9),
        "prompt_tokens": 10,
        "cached_tokens": 0,
        "generated_tokens": 10,
        "fast_forwarded_tokens": 0,
        "decode_steps": 9,
        "flops_full": 1000,
        "flops_realised": 900,
        "bytes_full": 1000,
        "bytes_realised": 900,
        "milliseconds": Timings(prefill=1.0, decode=2.0),
        "finish_reason": "tool_calls",
    }
    return StepReport(**(fields | changes))
