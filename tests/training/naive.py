"""Steps the slow way: the chat template rendered anew for every cut, and its whole text encoded."""

from layerroute.chat.template import encode_rendered, render, render_answer


def conversation_ids(tokenizer, row):
    """Ids of a whole conversation."""
    text = render(tokenizer, [tidy(one) for one in row.messages], row.tools)
    return encode_rendered(tokenizer, text.removesuffix("<|im_start|>assistant\n"))


def step(tokenizer, row, turn, window):
    """Ids of prompt and answer of one assistant turn in a window, and the tools shown; None if they do not fit.

    As few tools as possible go, from the end, none that is called; then as few of the oldest exchanges as possible.
    """
    answer = encode_rendered(tokenizer, render_answer(tokenizer, tidy(row.messages[turn])))
    system = [one for one in row.messages[:1] if one["role"] == "system"]
    exchanges = exchanges_of(row.messages[len(system) : turn])
    users = [number for number, exchange in enumerate(exchanges) if exchange[0]["role"] == "user"]
    needed = {*users[-1:], len(exchanges) - 1}

    def prompt(kept, tools):
        messages = [*system, *(tidy(one) for number in sorted(kept) for one in exchanges[number])]
        return encode_rendered(tokenizer, render(tokenizer, messages, tools))

    called = {call["function"]["name"] for one in row.messages[: turn + 1] for call in one.get("tool_calls", ())}
    unused = [tool for tool in row.tools if tool["function"]["name"] not in called]
    everything = range(len(exchanges))
    if len(prompt(everything, row.tools)) + len(answer) <= window:
        return prompt(everything, row.tools), answer, row.tools
    for count in range(len(unused) + 1):
        tools = [tool for tool in row.tools if tool not in unused[len(unused) - count :]]
        if len(prompt(needed, tools)) + len(answer) <= window:
            break
    else:
        return None
    kept = set(needed)
    for number in reversed(everything):
        if len(prompt(kept | {number}, tools)) + len(answer) > window:
            break
        kept.add(number)
    return prompt(kept, tools), answer, tools


def exchanges_of(messages):
    """Messages, with every call its results."""
    exchanges = []
    for message in messages:
        if message["role"] == "tool" and exchanges:
            exchanges[-1].append(message)
        else:
            exchanges.append([message])
    return exchanges


def tidy(message):
    """Answers begin and end with something to see."""
    return {**message, "content": message["content"].strip()} if message["role"] == "assistant" else message
