"""Step reports: what they say adds up, and they survive JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from layerroute.report import StepKind, StepReport, Timings, VisitCounts, summarise

counts = st.builds(VisitCounts, executed=st.integers(0, 999), skipped=st.integers(0, 999))
kinds = st.sampled_from(StepKind)
steps = st.builds(
    StepReport,
    model=st.just("tiny"),
    device=st.just("cpu"),
    dtype=st.just("float32"),
    backend=st.just("eager"),
    router=st.just("gates"),
    reason=st.text(),
    scope=st.sampled_from(["generation", "sequence"]),
    kind=kinds,
    predicted_kind=st.none() | kinds,
    num_blocks=st.just(4),
    program=st.just("0-2"),
    nominal_program=st.just("0-2"),
    visits_per_block=st.just((1, 1, 1, 0)),
    prefill=counts,
    decode=counts,
    prompt_tokens=st.integers(1, 999),
    cached_tokens=st.integers(0, 999),
    generated_tokens=st.integers(0, 99),
    fast_forwarded_tokens=st.integers(0, 99),
    decode_steps=st.integers(0, 99),
    flops_full=st.integers(0, 10**15),
    flops_realised=st.integers(0, 10**15),
    bytes_full=st.integers(0, 10**12),
    bytes_realised=st.integers(0, 10**12),
    milliseconds=st.builds(Timings, prefill=st.floats(0, 1e5), decode=st.floats(0, 1e5)),
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "cancelled"]),
)
SUMMED = ("prompt_tokens", "cached_tokens", "generated_tokens", "fast_forwarded_tokens", "flops_full", "flops_realised")


@given(step=steps)
def test_json_round_trip(step):
    assert StepReport.model_validate_json(step.model_dump_json()) == step
    assert StepReport.model_validate(step.model_dump(mode="json")) == step


@given(run=st.lists(steps, max_size=6))
def test_kinds_sum_to_the_total(run):
    summary = summarise(iter(run))
    assert summary.total.steps == len(run)
    assert {group.kind for group in summary.by_kind} == {step.kind for step in run}
    for field in (*SUMMED, "steps", "predicted", "predicted_right"):
        assert sum(getattr(group, field) for group in summary.by_kind) == getattr(summary.total, field)
    for field in SUMMED:
        assert getattr(summary.total, field) == sum(getattr(step, field) for step in run)
    assert summary.total.decode.executed == sum(step.decode.executed for step in run)
    assert summary.total.prefill.skipped == sum(step.prefill.skipped for step in run)
    assert summary.total.decode_ms == pytest.approx(sum(step.milliseconds.decode for step in run))
    assert summary.total.predicted == sum(step.predicted_kind is not None for step in run)
    assert summary.total.predicted_right == sum(step.predicted_kind is step.kind for step in run)


@given(step=steps)
def test_rates(step):
    tokens = step.generated_tokens - 1
    if tokens > 0 and step.milliseconds.decode > 1e-3:
        assert step.ms_per_token * step.tokens_per_second == pytest.approx(1000)
        assert step.ms_per_token * tokens == pytest.approx(step.milliseconds.decode)
    if tokens <= 0:
        assert step.tokens_per_second == step.ms_per_token == 0


@given(step=steps)
def test_flops_saved(step):
    if step.flops_full:
        assert step.flops_full * (1 - step.flops_saved) == pytest.approx(step.flops_realised, abs=1)
    else:
        assert step.flops_saved == 0
    assert summarise([step]).total.flops_saved == step.flops_saved


def test_skip_share_is_of_full_depth_visits():
    assert VisitCounts(executed=18, skipped=6).skip_share == 0.25
    assert VisitCounts(executed=20, skipped=6, looped=2).skip_share == 0.25
    assert VisitCounts().skip_share == 0
    assert VisitCounts(executed=1, skipped=2, looped=3) + VisitCounts(executed=4, skipped=5, looped=6) == VisitCounts(
        executed=5, skipped=7, looped=9
    )


@given(step=steps)
def test_reports_are_frozen_and_know_their_fields(step):
    with pytest.raises(ValidationError):
        step.prompt_tokens = 1
    with pytest.raises(ValidationError):
        StepReport.model_validate(step.model_dump() | {"color": "red"})
