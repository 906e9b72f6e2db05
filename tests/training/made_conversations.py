"""Conversations to cut into steps: written out, and drawn by hypothesis with whatever text people send."""

import json
from pathlib import Path

from hypothesis import strategies as st
from transformers import AutoTokenizer

import layerroute
from layerroute_training.cutting import build_steps
from layerroute_training.rows import Row

EMBEDDED = AutoTokenizer.from_pretrained(Path(layerroute.__file__).parent / "assets" / "embedded")
SMALL = AutoTokenizer.from_pretrained(Path(__file__).parent.parent / "data" / "tokenizer")

WORDS = (
    *("rain", "Oslo", "42", "naïve", "日本", '"quoted"', "line\nbreak", "a <|im_end|> b", "<tool_call>", "🙂 ok"),
    *('}\n{"a"', "</tools>", ">\n<tools>\n{", "\ue0a5", "e\u0301", "\u0338", "\r\n", "{}\n\n{}", "\x00", " "),
)
text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
short_text = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)


def tool(name, note=""):
    parameters = {"type": "object", "properties": {"city": {"type": "string", "description": note}}}
    return {"type": "function", "function": {"name": name, "description": note, "parameters": parameters}}


def call(name, city):
    return {"type": "function", "function": {"name": name, "arguments": {"city": city}}}


TOOLS = [tool(f"tool_{number}", "what it is for " * number) for number in range(5)]
ODD_TOOLS = [tool(f"odd_{number}", " ".join(WORDS[number:])) for number in range(0, len(WORDS), 3)]


@st.composite
def conversations(draw):
    """A conversation: user turns, each with calls, results (also several in a row) and an answer unlike the others."""
    tools = draw(
        st.lists(st.sampled_from([*TOOLS, *ODD_TOOLS]), unique_by=lambda tool: tool["function"]["name"], max_size=4)
    )
    messages = [{"role": "system", "content": draw(text)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 4))):
        messages.append({"role": "user", "content": draw(text)})
        for _ in range(draw(st.integers(0, 3)) if tools else 0):
            names = draw(
                st.lists(st.sampled_from([tool["function"]["name"] for tool in tools]), min_size=1, max_size=2)
            )
            content = draw(st.sampled_from(["", "Let me look."]))
            calls = [call(name, f"{len(messages)} {draw(short_text)}") for name in names]
            messages.append({"role": "assistant", "content": content, "tool_calls": calls})
            messages += [{"role": "tool", "name": name, "content": json.dumps(draw(text))} for name in names]
        messages.append({"role": "assistant", "content": f"{len(messages)} {draw(text)}"})
    return Row("row", "made", "train", tools, messages)


def row(messages, tools=(), name="row", source="made"):
    return Row(name, source, "train", list(tools), messages)


def user(content):
    return {"role": "user", "content": content}


def answer(content, *calls):
    return {"role": "assistant", "content": content} | ({"tool_calls": list(calls)} if calls else {})


def prompt_of(steps, index):
    return tuple(steps.tokens[steps.start[index] : steps.answer[index]].tolist())


def answer_of(steps, index):
    return tuple(steps.tokens[steps.answer[index] : steps.end[index]].tolist())


def build(*rows, window=100_000, tokenizer=EMBEDDED, **options):
    return build_steps({"corpora": list(rows)}, tokenizer, window=window, **options)


def assistant_turns(messages):
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]
