# ruff: noqa: E501, SIM905 (phrase templates are one line each, word lists are written as text)
"""Synthetic tools: random names, parameters and values, and requests that mention the values.

A tool is made together with its requests, so the arguments are always what the user wrote. The point is to follow any
schema, and to copy values that nobody has seen.
"""

import functools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layerroute_training.embedded.conversations import pools, values
from layerroute_training.embedded.conversations.text import capitalise, expand, listing, pick
from layerroute_training.rows import Message, Tool

Arguments = dict[str, Any]

_VERBS = """get find create update delete list search send open close start stop check fetch compute evaluate run apply register book
schedule lookup add remove set show track translate measure estimate rank sort merge split label tag convert scan print play pause
reserve assign invite notify archive restore rate compare validate render plot resize rotate sum count""".split()
_NOUNS = """user ticket invoice file image report playlist recipe route flight hotel movie song book course student employee project task
device sensor account payment subscription address photo video message channel server database backup job query index map parcel
shipment product review coupon stock price rate score level matrix vector lamp door camera printer robot drone garden plant pet horse
ship train bus team match player league poem quote word sentence document contract license patient doctor clinic exam grade""".split()
_STRING_NAMES = """name title city label topic query text keyword location user owner author subject category code color model brand country
customer company department message comment path file_name tag reason language genre destination origin street email username
customer_name""".split()
_NUMBER_NAMES = """count amount limit size age price weight height width depth duration minutes hours days year level score quantity rating
speed distance temperature percentage index page radius volume threshold input number value a b x y n k floor seats""".split()
_BOOLEAN_NAMES = (
    "urgent verbose public active recursive dry_run notify archived include_tax overwrite express gift_wrap".split()
)
_ENUMS = (
    ("priority", ("low", "medium", "high")), ("unit", ("celsius", "fahrenheit")), ("color", ("red", "green", "blue", "yellow")),
    ("size", ("small", "medium", "large")), ("format", ("json", "csv", "xml")), ("order", ("asc", "desc")), ("mode", ("fast", "slow", "eco")),
    ("status", ("open", "closed", "pending")), ("language", ("English", "German", "French", "Spanish")), ("day", ("today", "tomorrow")),
    ("period", ("day", "week", "month", "year")), ("direction", ("north", "south", "east", "west")), ("shape", ("circle", "square", "triangle")),
    ("payment", ("card", "cash", "invoice")), ("gender", ("female", "male", "other")), ("level", ("beginner", "advanced", "expert")),
)  # fmt: skip
_PHRASES = "Applies a {w} function to an input.;{V} {n}.;{V} a {n} by its parameters.;{V} the {n} of the {w} system;Tool to {v} {n}s;Use this to {v} a {n}."
_ADJECTIVES = "secret hidden special internal quick lazy mystic golden strange simple remote virtual central random odd prime".split()


@dataclass(frozen=True)
class Synthetic:
    """A tool and how its parameters are filled."""

    tool: Tool
    fill: Callable[[], Arguments]

    @property
    def name(self) -> str:
        """The tool's name."""
        return str(self.tool["function"]["name"])

    @property
    def verb_phrase(self) -> str:
        """The name as words: "get_user" is "get user"."""
        spaced = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in self.name)
        return spaced.replace("_", " ").replace("-", " ").strip()


def distinct(tools: list[Tool]) -> list[Tool]:
    """The tools without those whose name an earlier one has."""
    return list({tool["function"]["name"]: tool for tool in reversed(tools)}.values())[::-1]


def free_text(rng: random.Random) -> str:
    """A string value to copy: a name, a thing, a code, a foreign word, a short clause."""
    makers = (
        values.person, values.city, values.item, values.order_id, values.made_up, values.topic, values.event_title, values.note,
        values.first_name, lambda rng: pick(rng, pools.UNICODE_TEXTS), lambda rng: pick(rng, pools.UNICODE_TEXTS), _email, _foreign, _spaced_code,
    )  # fmt: skip
    return pick(rng, makers)(rng)


def _email(rng: random.Random) -> str:
    return f"{values.first_name(rng).lower()}.{values.made_up(rng).lower()}@{values.made_up(rng).lower()}.{pick(rng, ('com', 'org', 'net', 'io', 'de'))}"


def _foreign(rng: random.Random) -> str:
    low, high = pick(
        rng,
        ((0x4E00, 0x6FFF), (0x3041, 0x3093), (0x30A1, 0x30F6), (0xAC00, 0xB400), (0x0410, 0x044F), (0x03B1, 0x03C9)),
    )
    text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(2, 8)))
    return text if rng.random() < 0.7 else f"{text}{pick(rng, ('公司', '株式会社', ' GmbH', '集市', '大学'))}"


def _spaced_code(rng: random.Random) -> str:
    return "".join(
        rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") for _ in range(rng.randint(3, 12))
    )


Maker = Callable[[random.Random], Any]


def _integer(rng: random.Random) -> int:
    return rng.randint(-20, 20) if rng.random() < 0.4 else rng.randint(0, 10 ** rng.randint(1, 5))


def _decimal(rng: random.Random) -> float:
    return round(rng.uniform(-50, 900), rng.randint(0, 3))


def _boolean(rng: random.Random) -> bool:
    return rng.random() < 0.5


def _integers(rng: random.Random) -> list[int]:
    return [rng.randint(0, 999) for _ in range(rng.randint(2, 4))]


def _strings(rng: random.Random) -> list[str]:
    return [_plain(rng) for _ in range(rng.randint(2, 4))]


def _who_and_where(rng: random.Random) -> dict[str, str]:
    return {"name": values.person(rng), "city": values.city(rng)}


def _typed(rng: random.Random) -> tuple[str, dict[str, Any], Maker]:
    kind = rng.choices(
        ("string", "integer", "number", "boolean", "enum", "array", "object"), (40, 22, 12, 7, 11, 6, 2)
    )[0]
    match kind:
        case "enum":
            name, choices = pick(rng, _ENUMS)
            return name, {"type": "string", "enum": list(choices)}, functools.partial(_one_of, choices)
        case "array" if rng.random() < 0.4:
            return pick(rng, ("ids", "numbers", "values")), {"type": "array", "items": {"type": "integer"}}, _integers
        case "array":
            name = pick(rng, ("tags", "names", "cities", "items", "keywords", "guests"))
            return name, {"type": "array", "items": {"type": "string"}}, _strings
        case "object":
            inner = {"name": {"type": "string"}, "city": {"type": "string"}}
            schema = {"type": "object", "properties": inner, "required": ["name", "city"]}
            return pick(rng, ("address", "contact", "person", "position")), schema, _who_and_where
        case "string":
            return pick(rng, _STRING_NAMES), {"type": "string"}, free_text
        case "boolean":
            return pick(rng, _BOOLEAN_NAMES), {"type": "boolean"}, _boolean
    return pick(rng, _NUMBER_NAMES), {"type": kind}, _integer if kind == "integer" else _decimal


def _one_of(choices: tuple[str, ...], rng: random.Random) -> str:
    return pick(rng, choices)


def _parameter(rng: random.Random, used: set[str]) -> tuple[str, dict[str, Any], Maker]:
    name, schema, make = _typed(rng)
    if rng.random() < 0.1:
        name = values.made_up(rng, 1, 2).lower()
    while name in used:
        name = f"{pick(rng, ('new', 'old', 'first', 'second', 'main', 'other'))}_{name}"
    if rng.random() < 0.35:
        schema = {"description": capitalise(f"{pick(rng, ('the', 'its', 'a'))} {name.replace('_', ' ')}"), **schema}
    return name, schema, make


def _plain(rng: random.Random) -> str:
    return pick(rng, (values.first_name, values.city, values.made_up, values.item))(rng)


def synthetic_tool(rng: random.Random, parameters: int | None = None, optional_share: float = 0.25) -> Synthetic:
    """A random tool with up to four parameters, all but the first of them optional with a probability."""
    count = rng.choices((0, 1, 2, 3, 4), (14, 38, 28, 14, 6))[0] if parameters is None else parameters
    verb, noun, word = pick(rng, _VERBS), pick(rng, _NOUNS), pick(rng, _ADJECTIVES)
    if rng.random() < 0.2:
        noun = values.made_up(rng, 2, 3).lower()
    name = pick(
        rng,
        (
            f"{verb}_{noun}",
            f"{verb}_{noun}",
            f"{verb}{noun.capitalize()}",
            f"{verb}_{word}_{noun}",
            f"{word}_function" if count else f"{verb}_{noun}",
            f"{noun}_{verb}",
        ),
    )
    if rng.random() < 0.12:
        name = values.made_up(rng).lower() + pick(rng, ("", "_" + values.made_up(rng, 1, 2).lower()))
    properties: dict[str, Any] = {}
    makers: dict[str, Maker] = {}
    for _ in range(count):
        key, schema, make = _parameter(rng, set(properties))
        properties[key], makers[key] = schema, make
    optional = {key for key in list(properties)[1:] if rng.random() < optional_share}
    description = capitalise(pick(rng, _PHRASES.split(";")).format(w=word, n=noun, v=verb, V=capitalise(verb)))
    required = [key for key in properties if key not in optional]
    tool = function_tool(name, description, properties, required)

    def fill() -> Arguments:
        return {key: make(rng) for key, make in makers.items() if key not in optional or rng.random() < 0.5}

    return Synthetic(tool, fill)


def function_tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> Tool:
    """An OpenAI function dict."""
    parameters: dict[str, Any] = {"properties": properties, "required": required, "type": "object"}
    if not required:
        del parameters["required"]
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def said(value: Any) -> str:
    """A value as a user writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return listing([str(part) for part in value])
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return str(value)


def request(rng: random.Random, made: Synthetic, arguments: Arguments) -> str:
    """A request that mentions every argument."""
    words = made.verb_phrase
    if not arguments:
        return expand(
            rng,
            "[please|] {w}|{W}[.|!|]|[can you|could you|would you] {w}?|[use|call|run] {n}[.|]|[I need you to|I want you to] {w}|use the tool {n}|[please|] [call|invoke|execute|run] [the tool|the function|] {n} [now|]",
            w=words, W=capitalise(words), n=made.name,
        )  # fmt: skip
    code = ", ".join(_literal(value) for value in arguments.values())
    keyed = ", ".join(f"{key}={_literal(value)}" for key, value in arguments.items())
    lines = "\n".join(f"{key.replace('_', ' ')}: {said(value)}" for key, value in arguments.items())
    pairs = listing(
        [
            pick(
                rng,
                (
                    f"{key.replace('_', ' ')} {quoted(rng, value)}",
                    f"{key.replace('_', ' ')} {quoted(rng, value)}",
                    f"{quoted(rng, value)} as {key.replace('_', ' ')}",
                ),
            )
            for key, value in arguments.items()
        ]
    )
    only = quoted(rng, next(iter(arguments.values())))
    slots = {
        "w": words,
        "W": capitalise(words),
        "n": made.name,
        "code": code,
        "keyed": keyed,
        "lines": lines,
        "pairs": pairs,
        "v": only,
    }
    roll = rng.random()
    if (
        roll < 0.24
        and all(key in made.tool["function"]["parameters"].get("required", ()) for key in arguments)
        and len(arguments) == len(made.tool["function"]["parameters"]["properties"])
    ):
        return expand(
            rng,
            "[what is|what's|compute|evaluate|give me|tell me|what does|I need] {n}({code})[?|.|]|{n}({code})|[use|call|run] {n}({code})|[the value of|result of] {n}({code}), [please|using the tool]|[with|by means of] your tool, [tell me|find out] {n}({code})|what [is the result of|do you get for|comes out of] {n}({code})? [Call|Use|Run] the [tool|function].",
            **slots,
        )
    if roll < 0.32:
        return expand(rng, "[use|call|run|invoke] {n} with {keyed}|{n}: {keyed}|please run {n} ({keyed})", **slots)
    if roll < 0.42:
        return expand(rng, "{W}\n{lines}|{W}:\n{lines}|please {w}\n\n{lines}", **slots)
    if len(arguments) == 1 and roll < 0.75:
        return expand(
            rng,
            "[please|] {w} {v}|{W} {v}[.|]|[can you|could you] {w} {v}?|{w} for {v}|[I need|I want] to {w} {v}|what [is|about] the {w} of {v}?|{w} named {v}|{w} called {v}|what does {n} give for {v}?|apply {n} to {v}|run {n} on {v}",
            **slots,
        )
    return expand(
        rng,
        "[please|] {w} with {pairs}|{W} with {pairs}.|[can you|could you|would you] {w} with {pairs}?|{w}, {pairs}|[I want|I need] to {w}: {pairs}|use {n} with {pairs}|{w} [using|given|for] {pairs}",
        **slots,
    )


def quoted(rng: random.Random, value: Any) -> str:
    """A value as written, strings sometimes in quotation marks."""
    text = said(value)
    return pick(rng, ("'{}'", '"{}"', "{}", "{}")).format(text) if isinstance(value, str) else text


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if not isinstance(value, bool) else str(value)


def result_of(rng: random.Random) -> tuple[str, str]:
    """A random result and an answer that copies it."""
    roll = rng.random()
    if roll < 0.3:
        number = rng.randint(-50, 5000) if rng.random() < 0.7 else round(rng.uniform(0, 500), 2)
        return (str(number) if rng.random() < 0.5 else json.dumps({"result": number})), expand(
            rng, "The result is {n}.|It is {n}.|{n}|The answer is {n}.", n=number
        )
    if roll < 0.5:
        number = rng.randint(1, 99999)
        return json.dumps({"status": "ok", "id": number}), expand(
            rng, "Done, the id is {n}.|Done (id {n}).|That worked; the id is {n}.", n=number
        )
    if roll < 0.62:
        return pick(rng, ("ok", '{"status": "ok"}', "done", '{"success": true}')), expand(
            rng, "Done.|That is done.|It worked."
        )
    if roll < 0.7:
        problem = expand(rng, "[not found|permission denied|timeout|invalid value|service unavailable|limit exceeded]")
        return pick(rng, (f'{{"error": "{problem}"}}', f"Error: {problem}")), expand(
            rng, "That failed: {p}.|It did not work: {p}.|Sorry, there was an error: {p}.", p=problem
        )
    if roll < 0.85:
        names = [_plain(rng) for _ in range(rng.randint(1, 4))]
        return json.dumps({"items": names}, ensure_ascii=False), expand(
            rng, "I found {x}.|Here they are: {x}.|{x}.", x=listing(names)
        )
    fact = expand(
        rng,
        "{name} is in {city}|the code is {code}|{item} is available|{n} of {item} are left",
        name=values.person(rng),
        city=values.city(rng),
        code=values.order_id(rng),
        item=values.item(rng),
        n=rng.randint(2, 90),
    )
    return fact, capitalise(fact) + "."


def call_message(calls: list[tuple[str, Arguments]], content: str = "") -> Message:
    """An assistant turn that calls tools."""
    tool_calls = [{"type": "function", "function": {"name": name, "arguments": arguments}} for name, arguments in calls]
    return {"role": "assistant", "content": content, "tool_calls": tool_calls}


def result_message(name: str, content: str) -> Message:
    """A tool's result."""
    return {"role": "tool", "name": name, "content": content}
