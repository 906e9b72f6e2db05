"""The terminal view: every width, pipes, ASCII terminals, and strings that would like to be markup."""

import io
import json
import re

import pytest
import step_reports
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from layerroute.console import PlainConsole, RunView, plain, plain_json
from layerroute.report import RunSums, StepKind, Timings, VisitCounts

ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def make_step(num_blocks=24, skipped=range(8, 16), looped=(), **changes):
    visits = [0 if block in skipped else 2 if block in looped else 1 for block in range(num_blocks)]
    fields = {
        "num_blocks": num_blocks,
        "program": "0-7,16-23",
        "nominal_program": "0-7,16-23",
        "visits_per_block": tuple(visits),
        "prefill": VisitCounts(executed=240),
        "decode": VisitCounts(executed=200, skipped=100),
        "prompt_tokens": 1834,
        "cached_tokens": 1700,
        "generated_tokens": 31,
        "fast_forwarded_tokens": 12,
        "decode_steps": 18,
        "flops_realised": 780,
        "milliseconds": Timings(prefill=133.2, decode=402.1),
    }
    return step_reports.make_step(**(fields | changes))


def shown(act, width=120, terminal=True, encoding="utf-8", **console):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", newline="")
    act(RunView(Console(file=file, width=width, force_terminal=terminal, **console)))
    file.flush()
    return raw.getvalue().decode(encoding)


def lines(act, **console):
    return ANSI.sub("", shown(act, **console)).splitlines()


# What a line says.


def test_the_full_line():
    header, line = lines(lambda view: view.step(make_step()))
    words = "step kind predicted blocks skips prompt cached generated fast-fwd prefill decode tok/s FLOPs"
    assert " ".join(header.split()) == words
    assert line.split("  ")[0].strip() == ""
    for part in (
        "1 tool call ✓ tool call ■■■■■■■■········■■■■■■■■   33%",
        "1834",
        "1700",
        "31",
        "12",
        "133 ms",
        "402 ms",
        "75",
        "-22%",
    ):
        assert part in line
    for word, value in (("prompt", "1834"), ("cached", "1700"), ("generated", "31"), ("FLOPs", "-22%")):
        assert header.index(word) + len(word) == line.index(value) + len(value)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_run_skipped_and_looped_differ_without_colour(encoding):
    step = make_step(num_blocks=6, skipped=(1,), looped=(2,), visits_per_block=(1, 0, 2, 1, 9, 12))
    strip = "■·2■9+" if encoding == "utf-8" else "#.2#9+"
    assert strip in lines(lambda view: view.step(step), encoding=encoding)[1]


@pytest.mark.parametrize("width", [120, 80, 60, 40])
def test_a_wrong_guess_is_marked(width):
    def guess(predicted):
        line = lines(lambda view: view.step(make_step(predicted_kind=predicted)), width=width)[1]
        return [mark for mark in "✓✗" if mark in line]

    assert guess(StepKind.TOOL_CALL) == ["✓"]
    assert guess(StepKind.PLANNING) == ["✗"]
    assert guess(None) == []


def test_steps_are_numbered_per_task_and_the_header_comes_once():
    def act(view):
        for _ in range(2):
            view.heading("task")
            view.step(make_step())
            view.step(make_step())

    out = lines(act)
    assert [line.split()[0] for line in out] == ["task", "step", "1", "2", "task", "1", "2"]


def test_what_the_line_has_no_column_for_is_remarked():
    assert len(lines(lambda view: view.step(make_step()))) == 2
    cut = lines(lambda view: view.step(make_step(finish_reason="length")))
    assert "token limit" in cut[2]
    assert "cancelled" in lines(lambda view: view.step(make_step(finish_reason="cancelled")))[2]
    assert (
        "asked for 0-3, the device ran 0-7,16-23" in lines(lambda view: view.step(make_step(nominal_program="0-3")))[2]
    )


@pytest.mark.parametrize(("realised", "shown_as"), [(780, "-22%"), (1000, "0%"), (1001, "0%"), (1120, "+12%")])
def test_flops_are_a_signed_change(realised, shown_as):
    assert lines(lambda view: view.step(make_step(flops_realised=realised)))[1].split()[-1] == shown_as


# Widths.


@settings(deadline=None)
@given(
    width=st.integers(40, 160),
    num_blocks=st.integers(1, 90),
    encoding=st.sampled_from(["utf-8", "ascii"]),
    tokens=st.integers(0, 10**8),
    milliseconds=st.just(0) | st.floats(1, 10**6),
)
def test_a_step_takes_one_line_at_any_width(width, num_blocks, encoding, tokens, milliseconds):
    step = make_step(
        num_blocks=num_blocks,
        prompt_tokens=tokens,
        generated_tokens=tokens % 10_000,
        milliseconds=Timings(prefill=milliseconds, decode=milliseconds),
    )
    out = lines(lambda view: view.step(step), width=width, encoding=encoding)
    assert len(out) == 2
    assert all(cell_len(line) <= width for line in out)


INT64 = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 10**6, 10**12])
COUNTS = st.builds(VisitCounts, executed=INT64, skipped=INT64, looped=INT64)
TIMES = st.builds(Timings, prefill=st.floats(), decode=st.floats())
NUMBERS = ("prompt_tokens", "cached_tokens", "generated_tokens", "fast_forwarded_tokens", "flops_full")
ANY_STEP = st.fixed_dictionaries(
    {
        **dict.fromkeys((*NUMBERS, "flops_realised", "num_blocks"), INT64),
        **dict.fromkeys(("prefill", "decode"), COUNTS),
        "milliseconds": TIMES,
        "visits_per_block": st.lists(INT64, max_size=200).map(tuple),
        "kind": st.sampled_from(StepKind),
        "predicted_kind": st.none() | st.sampled_from(StepKind),
        "program": st.text() | st.just("0-" * 50_000),
        "model": st.just("tiny") | st.just("x" * 1_000_000),
        "tool_call_probability": st.floats(),
    }
)


@settings(deadline=None, max_examples=200)
@given(fields=ANY_STEP, width=st.integers(40, 160), terminal=st.booleans())
def test_whatever_a_report_claims_it_takes_one_line_and_adds_up(fields, width, terminal):
    step = step_reports.make_step(**fields)

    def act(view):
        view.step(step)
        view.summary(RunSums([step, step]))

    out = lines(act, width=width, terminal=terminal)
    header, line = out[:2]
    assert header.split()[-1] == "FLOPs"
    assert "tool call" in line or "planning" in line or "plan" in line or "call" in line
    assert len("\n".join(out)) < 100_000
    if terminal:
        assert cell_len(line) <= width


@pytest.mark.parametrize("changes", [{"num_blocks": 0, "visits_per_block": ()}, {"num_blocks": 10**12}])
def test_a_strip_is_of_the_visits_that_a_report_has(changes):
    step = step_reports.make_step(**changes)
    strip = "■" * 3 + "·" if step.visits_per_block else ""
    assert f"tool call {strip}".split() == lines(lambda view: view.step(step))[1].split()[4 : 6 + bool(strip)]


@pytest.mark.parametrize("width", [119, 103, 80, 58, 46, 40])
def test_the_strip_is_never_cut_where_it_fits(width):
    for narrower in (width, width + 5):
        assert "■■■■■■■■········■■■■■■■■" in lines(lambda view: view.step(make_step()), width=narrower)[1]


def test_a_strip_that_cannot_fit_becomes_a_count():
    step = make_step(num_blocks=80)
    out = lines(lambda view: view.step(step), width=60)[1]
    assert "72/80" in out
    assert "■" not in out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_long_call_and_its_result_take_one_line_each_of_a_terminal(encoding):
    text = "word " * 60
    out = lines(lambda view: view.call("add_note", {"text": text}, text), width=60, encoding=encoding)
    assert len(out) == 2
    assert all(cell_len(line) <= 60 for line in out)


def test_narrower_layouts_keep_the_most_important():
    def parts(width):
        return lines(lambda view: view.step(make_step()), width=width)[1]

    assert "133 ms" in parts(103)
    assert "133 ms" not in parts(102)
    assert "402 ms" in parts(80)
    assert "1834" in parts(80)
    assert "31" in parts(58)
    assert "33%" in parts(46)
    assert parts(40).split()[-1] == "-22%"


# Pipes, colours, encodings.


def test_a_pipe_gets_the_full_line_without_control_characters():
    def act(view):
        view.heading("a long task " * 30)
        with view.loading("loading"):
            view.step(make_step(num_blocks=80))
        view.call("find_order", {"text": "x" * 200}, "y" * 200)
        view.summary(RunSums([make_step(num_blocks=80)]))

    out = shown(act, width=40, terminal=False)
    assert re.search(r"[^\n\x20-\U0010ffff]", out) is None
    assert "loading" not in out
    assert "■" * 64 in out
    assert "133 ms" in out
    assert "x" * 200 in out
    assert "y" * 200 in out


def test_no_color_keeps_the_layout(monkeypatch):
    coloured = shown(lambda view: view.step(make_step()))
    assert "\x1b[3" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    bare = shown(lambda view: view.step(make_step()))
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m", bare) is None
    assert ANSI.sub("", bare) == ANSI.sub("", coloured)


def test_ascii_terminals_get_ascii():
    def act(view):
        view.heading("task")
        view.step(make_step(predicted_kind=StepKind.PLANNING))
        view.summary(RunSums([make_step()]))

    out = lines(act, encoding="ascii")
    assert "########........########" in out[2]
    assert "! planning" in out[2]
    assert "\\" not in "".join(out)


def test_the_spinner_shows_on_terminals_only():
    def act(view):
        with view.loading("loading [bold]the[/] model"):
            pass

    assert "loading [bold]the[/] model" in shown(act)
    assert "loading" not in shown(act, terminal=False)


def test_an_error_ends_the_spinner():
    def act(view):
        with pytest.raises(KeyError), view.loading("loading"):
            raise KeyError
        view.step(make_step())

    assert shown(act).count("\x1b[?25h") == 1


# Foreign strings.

STEERING = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x61C, 0x200E, 0x200F]))
STEERING += "".join(map(chr, [*range(0x2028, 0x202F), *range(0x2066, 0x206A)]))
HOSTILE = st.text(st.characters() | st.sampled_from(f"[]/\\{STEERING}")) | st.sampled_from(
    ["[bold]", "[/]", "[/red]", "[link=file:///etc/passwd]x[/link]", "\x1b[2J\x1b]0;title\x07", "a\rb", ":smile:"]
)


@settings(deadline=None)
@given(text=HOSTILE, terminal=st.booleans(), width=st.sampled_from([40, 120]))
def test_no_foreign_string_crashes_or_steers_the_terminal(text, terminal, width):
    text = text.encode("utf-8", "replace").decode()

    def act(view):
        view.heading(text)
        view.call(text, {text: text}, text)
        view.remark(text)
        step = make_step(**dict.fromkeys(("model", "device", "dtype", "backend", "router", "reason", "program"), text))
        view.step(step)
        view.summary(RunSums([step]))
        with view.loading(text):
            pass

    out = ANSI.sub("", shown(act, width=width, terminal=terminal, color_system=None))
    assert not set(out) & (set(STEERING) - {"\r"})
    if not terminal:
        assert "\r" not in out


@given(text=st.text())
def test_plain_changes_control_characters_only(text):
    changed = plain(text)
    assert len(changed) == len(text)
    assert all(new in (old, "\ufffd") for old, new in zip(text, changed, strict=True))
    assert plain("a\tb\nc ü [x] \u200d\u200c") == "a\tb\nc ü [x] \u200d\u200c"
    assert set(plain(f"{STEERING}\ud800\udcff")) == {"\ufffd"}


@given(value=st.recursive(HOSTILE, lambda inner: st.lists(inner) | st.dictionaries(HOSTILE, inner)))
def test_plain_json_means_the_same(value):
    document = plain_json(json.dumps(value, ensure_ascii=False))
    assert not set(document) & set(STEERING)
    assert json.loads(document) == value


def test_a_plain_console_lets_nothing_through_tables_and_styles():
    file = io.StringIO()
    table = Table(f"a{STEERING}")
    table.add_row(Text(f"b{STEERING}", style="bold"))
    console = PlainConsole(file=file, width=200, force_terminal=True, color_system=None)
    console.print(table, f"c{STEERING}", markup=False)
    assert not set(ANSI.sub("", file.getvalue())) & set(STEERING)


def test_markup_is_shown_as_it_is():
    out = "\n".join(lines(lambda view: (view.heading("[bold]a[/] :smile:"), view.call("[b]", {"x": "[/]"}, "[dim]"))))
    assert "[bold]a[/] :smile:" in out
    assert '[b](x="[/]")' in out
    assert "→ [dim]" in out


# Calls.


def test_a_call_is_followed_by_its_dimmed_result():
    def act(view):
        view.call("find_order", {"order_id": "A-9999", "n": 2}, '{"error": "no order A-9999"}')

    call, result = shown(act).splitlines()
    assert call.strip() == 'find_order(order_id="A-9999", n=2)'
    assert re.fullmatch(r"\x1b\[2m +→ \{\"error\": \"no order A-9999\"\}\x1b\[0m", result)
    assert '-> {"error"' in lines(act, encoding="ascii")[1]


def test_a_remark_is_indented_wherever_it_breaks():
    out = lines(lambda view: view.remark("a plan:\n" + "word " * 30), width=60)
    assert len(out) > 3
    assert all(line.startswith("      ") and cell_len(line) <= 60 for line in out)


# The summary.


def test_sums_by_kind():
    steps = [
        make_step(),
        make_step(predicted_kind=StepKind.PLANNING),
        make_step(
            kind=StepKind.PLANNING,
            predicted_kind=None,
            decode=VisitCounts(executed=270, skipped=30),
            flops_realised=1000,
        ),
    ]
    rule, header, calls, planning, total, *notes = lines(lambda view: view.summary(RunSums(steps)))
    assert set(rule) == {"─"}
    assert header.split()[:5] == ["steps", "kind", "predicted", "visits", "skipped"]
    assert " ".join(calls.split()) == "2 tool call 1/2 right 33% -22% 268 62 24 266 ms 804 ms 13 ms"
    assert " ".join(planning.split()) == "1 planning 10% 0% 134 31 12 133 ms 402 ms 13 ms"
    assert " ".join(total.split()) == "3 all 1/2 right 26% -15% 402 93 36 400 ms 1206 ms 13 ms"
    for column, value in (("visits skipped", "33%"), ("FLOPs", "-22%"), ("prefilled", "268"), ("per token", "13 ms")):
        assert header.index(column) + len(column) == calls.index(value) + len(value)
    for word in ("tiny", "cpu", "float32", "gates", "generation"):
        assert word in notes[-1]


@pytest.mark.parametrize("width", [38, 50, 80, 120])
def test_visits_and_flops_stand_side_by_side_at_every_width(width):
    _, header, calls, *_ = lines(lambda view: view.summary(RunSums([make_step()])), width=width)
    assert "visits skipped FLOPs" in header
    assert " ".join(calls.split()).startswith("1 tool call")
    assert "33%  -22%" in calls


def test_the_relation_of_visits_and_flops_is_explained_as_it_is():
    def explained(**changes):
        return " ".join(lines(lambda view: view.summary(RunSums([make_step(**changes)])), width=1000)[3:])

    assert "the prompt runs every block" in explained()
    assert "fast-fwd" in explained()
    in_sequence = explained(scope="sequence", prefill=VisitCounts(executed=160, skipped=80), fast_forwarded_tokens=0)
    assert "visits skipped: of generated tokens" in in_sequence
    assert "every block" not in in_sequence
    assert "fast-fwd" not in in_sequence


def test_one_kind_needs_no_total_and_no_steps_need_nothing():
    out = lines(lambda view: view.summary(RunSums([make_step()])), width=1000)
    assert len(out) == 7
    assert not any(line.startswith("    1 all") for line in out)
    assert lines(lambda view: view.summary(RunSums())) == []


@settings(deadline=None, max_examples=30)
@given(width=st.integers(40, 130), num_blocks=st.integers(1, 90))
def test_the_summary_fits_any_width(width, num_blocks):
    steps = [make_step(num_blocks=num_blocks), make_step(num_blocks=num_blocks, kind=StepKind.PLANNING)]
    out = lines(lambda view: view.summary(RunSums(steps)), width=width)
    assert all(cell_len(line) <= width for line in out)
