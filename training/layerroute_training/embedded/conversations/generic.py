# ruff: noqa: E501 (phrase templates are one line each)
"""Conversations with tools of any kind: synthetic ones, everyday ones, and schemas to extract data into."""

import json
import random
from collections.abc import Callable
from typing import Any

from layerroute_training.embedded.conversations import pools, values
from layerroute_training.embedded.conversations.synthetic import (
    call_message,
    distinct,
    free_text,
    function_tool,
    request,
    result_message,
    result_of,
    synthetic_tool,
)  # fmt: skip
from layerroute_training.embedded.conversations.text import capitalise, expand, pick
from layerroute_training.rows import Message, Tool

_SYSTEMS = (
    "You are a helpful assistant.", "You are a helpful assistant with tools.", "Use the tools to answer.", "You are an agent. Call tools when needed.",
    "Answer briefly.", "You are {name}, an assistant.", "Today is {iso}. You can call functions.", "You are a concise assistant. Never invent arguments.",
)  # fmt: skip
_STRING, _INTEGER, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


def system_message(rng: random.Random) -> list[Message]:
    """A system message, or none (then the chat template puts its own)."""
    if rng.random() < 0.55:
        return []
    text = pick(rng, _SYSTEMS).format(name=values.first_name(rng), iso=values.today(rng).isoformat())
    return [{"role": "system", "content": text}]


def synthetic_conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """One to four turns with one to six synthetic tools."""
    made = [synthetic_tool(rng) for _ in range(rng.choices((1, 2, 3, 4, 6), (35, 22, 20, 13, 10))[0])]
    made = list({one.name: one for one in made}.values())
    tools, messages = [one.tool for one in made], system_message(rng)
    for _ in range(rng.choices((1, 2, 3, 4), (35, 30, 20, 15))[0]):
        one, roll = pick(rng, made), rng.random()
        if roll < 0.09:
            messages += _small_talk(rng)
            continue
        calls = [one.fill()]
        text = request(rng, one, calls[0])
        if roll > 0.88 and one.fill():
            calls.append(one.fill())
            text = (
                f"{text} {request(rng, one, calls[1])}"
                if rng.random() < 0.5
                else f"{text} and also {request(rng, one, calls[1])}"
            )
        messages.append({"role": "user", "content": text})
        messages.append(call_message([(one.name, arguments) for arguments in calls]))
        answers = []
        for _ in calls:
            content, answer = result_of(rng)
            messages.append(result_message(one.name, content))
            answers.append(answer)
        messages.append({"role": "assistant", "content": " ".join(answers)})
    return tools, messages


def _small_talk(rng: random.Random) -> list[Message]:
    asked, answered = pick(
        rng,
        (
            ("[hello|hi|hey|good morning][!|.|]", "[Hello! How can I help you?|Hi! What can I do for you?]"),
            ("[thanks|thank you][!|.|]", "You are welcome."),
            ("[how are you|how are you today]?", "I am fine, thank you. How can I help?"),
            ("[who are you|what are you]?", "I am an assistant that can call tools."),
            ("[ok|great|nice][.|!|]", "Is there anything else?"),
            ("[I am|my name is|I'm] {name}[.|!|]", "Nice to meet you, {name}. How can I help?"),
        ),
    )
    name = values.first_name(rng)
    text = expand(rng, asked, name=name)
    return [
        {"role": "user", "content": capitalise(text)},
        {"role": "assistant", "content": expand(rng, answered, name=name)},
    ]


# Everyday tools: description, parameters, and a maker of (request, arguments, result, answer).
Everyday = tuple[str, str, dict[str, Any], Callable[[random.Random], tuple[str, dict[str, Any], str, str]]]


def _weather(rng: random.Random, key: str) -> tuple[str, dict[str, Any], str, str]:
    city = values.city(rng)
    place = (
        f"{city}, {pick(rng, ('CA', 'NY', 'TX', 'WA', 'UK', 'France', 'Japan', 'Peru', 'DE', 'NSW'))}"
        if rng.random() < 0.4
        else city
    )
    text = expand(
        rng,
        "[how is|how's|what is|tell me] the weather [like|] [in|for|at|over in] {c} [right now|now|today|]?|weather [report|] for {c}|is it [sunny|raining|cold] in {c}?|[look up|check] the weather [in|of] {c}",
        c=place,
    )
    condition, degrees = pick(rng, pools.CONDITIONS), rng.randint(-15, 38)
    result = pick(
        rng,
        (
            f"It is {condition}.",
            f"{condition}, {degrees} degrees",
            f"It's {degrees} degrees and {condition}.",
            json.dumps({"temperature": degrees, "condition": condition}),
        ),
    )
    answer = (
        f"The weather in {place} is {condition}."
        if str(degrees) not in result
        else f"It is {condition} in {place}, {degrees} degrees."
    )
    return text, {key: place}, result, answer


def _two_numbers(rng: random.Random, sign: str, word: str) -> tuple[str, dict[str, Any], str, str]:
    a, b = rng.randint(-99, 999), rng.randint(1, 99)
    total = {"+": a + b, "*": a * b, "-": a - b}[sign]
    text = expand(
        rng, "what is {a} {w} {b}?|{a} {s} {b}?|[calculate|compute] {a} {s} {b}|{a} {w} {b}", a=a, b=b, w=word, s=sign
    )
    return (
        text,
        {"a": a, "b": b},
        str(total),
        expand(rng, "{a} {s} {b} = {t}.|The result is {t}.|{t}", a=a, b=b, s=sign, t=total),
    )


def _search(rng: random.Random) -> tuple[str, dict[str, Any], str, str]:
    query = values.topic(rng) if rng.random() < 0.4 else free_text(rng)
    fact = f"{capitalise(query)}: {values.note(rng)}."
    return (
        expand(
            rng,
            "[search|search the web|look|google|search online] for {q}|[find|find out] something about {q}|what does the web say about {q}?|find {q}",
            q=query,
        ),
        {"query": query},
        fact,
        fact,
    )


def _message(rng: random.Random) -> tuple[str, dict[str, Any], str, str]:
    to, body = values.first_name(rng), values.note(rng)
    text = expand(
        rng,
        "[tell|message|text|write to] {to} that {b}|[send|write] {to} a message: {b}|[send|write] a message to {to} saying {b}",
        to=to,
        b=body,
    )
    return (
        text,
        {"to": to, "body": body},
        '{"sent": true}',
        expand(rng, "I sent it to {to}.|Done, {to} has the message.", to=to),
    )


def _contact(rng: random.Random, key: str) -> tuple[str, dict[str, Any], str, str]:
    name = free_text(rng)
    number = rng.randint(1, 9999)
    text = expand(
        rng,
        '[create|register|add|set up|make] [a|an entry for|a record for|an account for] [company|client|firm|contact|member|person] [called|named|with the name|:] [{n}|\'{n}\'|"{n}"]|[please|] [register|add] [{n}|"{n}"] [as a new client|to the contacts|]',
        n=name,
    )
    return (
        text,
        {key: name},
        json.dumps({"id": number}),
        expand(rng, "{n} has the id {i}.|Done: {n}, id {i}.", n=name, i=number),
    )


def _timer(rng: random.Random) -> tuple[str, dict[str, Any], str, str]:
    minutes = rng.randint(1, 120)
    return (
        expand(
            rng, "[set|start] a timer [for|of] {m} minutes|[remind|wake] me in {m} minutes|{m} minute timer", m=minutes
        ),
        {"minutes": minutes},
        "ok",
        f"The timer is set to {minutes} minutes.",
    )


def _table(rng: random.Random) -> tuple[str, dict[str, Any], str, str]:
    place, people = (
        f"{pick(rng, ('Cafe', 'Trattoria', 'Chez', 'Bistro', 'The'))} {values.made_up(rng)}",
        rng.randint(2, 12),
    )
    said, time = values.clock(rng)
    text = expand(
        rng,
        "[book|reserve|get] [me|us|] a table for {p} at {r} at {t}|[I'd like|we need] a table at {r} for {p} people at {t}",
        p=people,
        r=place,
        t=said,
    )
    return (
        text,
        {"restaurant": place, "people": people, "time": time},
        '{"confirmed": true}',
        f"The table at {place} for {people} at {time} is booked.",
    )


def _no_argument(rng: random.Random, asked: str, result: str, answer: str) -> tuple[str, dict[str, Any], str, str]:
    n = str(rng.randint(1, 500))
    return expand(rng, asked), {}, result.format(n=n), answer.format(n=n)


def _song(rng: random.Random) -> tuple[str, dict[str, Any], str, str]:
    title, artist = (
        f"{values.made_up(rng)} {pick(rng, ('Blues', 'Nights', 'Song', 'Love', 'Road'))}",
        values.person(rng),
    )
    return (
        expand(rng, "play {t} by {a}|put on {t} from {a}|I want to hear {t} by {a}", t=title, a=artist),
        {"title": title, "artist": artist},
        "playing",
        f"Playing {title} by {artist}.",
    )


EVERYDAY: tuple[Everyday, ...] = (
    ("get_weather", "Get the weather of a place.", {"location": _STRING}, lambda rng: _weather(rng, "location")),
    ("current_weather", "Current weather", {"city": _STRING}, lambda rng: _weather(rng, "city")),
    ("weather_lookup", "Looks up the weather at a location", {"place": _STRING}, lambda rng: _weather(rng, "place")),
    ("add", "Add two integers.", {"a": _INTEGER, "b": _INTEGER}, lambda rng: _two_numbers(rng, "+", "plus")),
    ("multiply", "Multiply two integers.", {"a": _INTEGER, "b": _INTEGER}, lambda rng: _two_numbers(rng, "*", "times")),
    ("subtract", "Subtract b from a.", {"a": _INTEGER, "b": _INTEGER}, lambda rng: _two_numbers(rng, "-", "minus")),
    ("web_search", "Search the web", {"query": _STRING}, _search),
    ("search", "Search for a query", {"query": _STRING}, _search),
    ("send_message", "Send a message to someone", {"to": _STRING, "body": _STRING}, _message),
    ("register_company", "Register a company", {"company_name": _STRING}, lambda rng: _contact(rng, "company_name")),
    ("create_contact", "Create a contact", {"name": _STRING}, lambda rng: _contact(rng, "name")),
    ("new_client", "Enter a new client", {"client": _STRING}, lambda rng: _contact(rng, "client")),
    ("set_timer", "Set a timer", {"minutes": _INTEGER}, _timer),
    ("book_table", "Book a restaurant table", {"restaurant": _STRING, "people": _INTEGER, "time": _STRING}, _table),
    ("play_song", "Play a song", {"title": _STRING, "artist": _STRING}, _song),
    ("server_time", "Get the time of the server.", {}, lambda rng: _no_argument(rng, "what time is it [on the server|now|]?|[tell me|get] the server time", "12:{n}", "The server time is 12:{n}.")),
    ("count_visitors", "Number of visitors", {}, lambda rng: _no_argument(rng, "how many visitors [are here|are there|do we have] [now|today|]?|count the visitors", "{n}", "There are {n} visitors.")),
    ("battery_level", "Battery level of the device", {}, lambda rng: _no_argument(rng, "how full is the battery?|[check|show|get] the battery [level|]|what's the battery level?", '{{"percent": {n}}}', "The battery is at {n} percent.")),
    ("lucky_number", "Draws a lucky number", {}, lambda rng: _no_argument(rng, "[draw|give me|what is|tell me] [a|my] lucky number|what is my lucky number?", "{n}", "Your lucky number is {n}.")),
)  # fmt: skip


def everyday_conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """One to four turns with everyday tools and distractors."""
    chosen = rng.sample(EVERYDAY, rng.choices((1, 2, 3, 4), (45, 25, 18, 12))[0])
    tools = [function_tool(name, description, dict(schema), list(schema)) for name, description, schema, _ in chosen]
    tools += [synthetic_tool(rng).tool for _ in range(pick(rng, (0, 0, 0, 1, 2)))]
    tools = distinct(tools)
    rng.shuffle(tools)
    messages = system_message(rng)
    for _ in range(rng.choices((1, 2, 3, 4), (40, 30, 18, 12))[0]):
        if rng.random() < 0.08:
            messages += _small_talk(rng)
            continue
        name, _, _, make = pick(rng, chosen)
        text, arguments, result, answer = make(rng)
        messages.append({"role": "user", "content": capitalise(text) if rng.random() < 0.8 else text})
        messages += [
            call_message([(name, arguments)]),
            result_message(name, result),
            {"role": "assistant", "content": answer},
        ]
    return tools, messages


# Data to extract: schema name, description, properties, and a maker of (text, values).
Record = tuple[str, str, dict[str, Any], Callable[[random.Random], tuple[str, dict[str, Any]]]]


def _person(rng: random.Random) -> tuple[str, dict[str, Any]]:
    name, age = values.person(rng) if rng.random() < 0.5 else values.first_name(rng), rng.randint(1, 99)
    text = expand(
        rng,
        "{n} is {a} years old.|{n}, {a} years old|{n} ({a})|[my name is|I am|this is] {n} and [I am|I'm] {a}|{n} turned {a} [today|last week|]|{a}-year-old {n}|age {a}, name {n}|{n}, aged {a}, came in",
        n=name,
        a=age,
    )
    return text, {"name": name, "age": age}


def _address(rng: random.Random) -> tuple[str, dict[str, Any]]:
    street, city, code = (
        f"{rng.randint(1, 200)} {values.made_up(rng)} Street",
        values.city(rng),
        str(rng.randint(1000, 99999)),
    )
    return expand(
        rng, "{s}, {c} {p}|[we live at|the parcel goes to|send it to] {s}, {p} {c}", s=street, c=city, p=code
    ), {"street": street, "city": city, "postcode": code}


def _product(rng: random.Random) -> tuple[str, dict[str, Any]]:
    item, price, colour = values.item(rng), values.money(rng), pick(rng, ("red", "blue", "green", "black", "white"))
    return expand(rng, "the {i} costs {p} and is {c}|{i}, {c}, {p}|a {c} {i} for {p}", i=item, p=price, c=colour), {
        "item": item,
        "price": price,
        "color": colour,
    }


def _meeting(rng: random.Random) -> tuple[str, dict[str, Any]]:
    who, day, time = values.first_name(rng), values.today(rng).isoformat(), values.clock(rng)[1]
    return expand(rng, "meet {w} on {d} at {t}|on {d} at {t} {w} comes|{w}, {d}, {t}", w=who, d=day, t=time), {
        "person": who,
        "date": day,
        "time": time,
    }


_JOKES = (
    ("cat", "Why did the cat sit on the computer?", "To keep an eye on the mouse."), ("dog", "What do you call a dog magician?", "A labracadabrador."),
    ("bear", "What do you call a bear with no teeth?", "A gummy bear."), ("book", "Why was the book cold?", "It lost its jacket."),
    ("fish", "Why are fish so smart?", "They live in schools."), ("clock", "Why did the clock get in trouble?", "It tocked too much."),
    ("cow", "What do you call a cow on a trampoline?", "A milkshake."), ("ghost", "Why are ghosts bad liars?", "You can see right through them."),
    ("tree", "How do trees get online?", "They log in."), ("cheese", "What do you call cheese that is not yours?", "Nacho cheese."),
    ("math", "Why was the math book sad?", "It had too many problems."), ("bee", "Why do bees have sticky hair?", "They use honeycombs."),
    ("banana", "Why did the banana see a doctor?", "It was not peeling well."), ("bike", "Why did the bike fall over?", "It was two tired."),
    ("penguin", "How does a penguin build a house?", "Igloos it together."), ("robot", "Why was the robot tired?", "It had a hard drive."),
)  # fmt: skip


def _joke(rng: random.Random) -> tuple[str, dict[str, Any]]:
    topic, setup, punchline = pick(rng, _JOKES)
    return expand(
        rng,
        "[tell|give] me [a|your best] joke [about|on] [a|the|] {t}[s|]|[I want|I'd like] [to hear|] a joke about {t}[s|]|make a joke about {t}[s|]|a {t} joke, please",
        t=topic,
    ), {"setup": setup, "punchline": punchline}


RECORDS: tuple[Record, ...] = (
    ("Person", "Data about a person.", {"name": _STRING, "age": _INTEGER}, _person),
    ("Human", "Record the attributes of someone.", {"name": _STRING, "age": _INTEGER}, _person),
    ("Address", "A postal address.", {"street": _STRING, "city": _STRING, "postcode": _STRING}, _address),
    ("Product", "An article on sale.", {"item": _STRING, "price": _NUMBER, "color": {"type": "string", "enum": ["red", "blue", "green", "black", "white"]}}, _product),
    ("Meeting", "An appointment.", {"person": _STRING, "date": _STRING, "time": _STRING}, _meeting),
    ("Joke", "A joke to tell.", {"setup": {"description": "question that sets up the joke", **_STRING}, "punchline": {"description": "answer that resolves it", **_STRING}}, _joke),
    ("FunnyStory", "Something funny.", {"setup": _STRING, "punchline": _STRING}, _joke),
)  # fmt: skip


def _random_record(rng: random.Random) -> Record:
    made = synthetic_tool(rng, parameters=rng.randint(1, 4), optional_share=0)
    function = made.tool["function"]
    name = "".join(
        part.capitalize()
        for part in (pick(rng, ("data", "entry", "card", "form", "record", "item")), values.made_up(rng, 1, 2))
    )

    def make(rng: random.Random) -> tuple[str, dict[str, Any]]:
        arguments = made.fill()
        text = ", ".join(
            f"{key.replace('_', ' ')} {pick(rng, ('', 'is ', 'was '))}{_shown(value)}"
            for key, value in arguments.items()
        )
        return text, arguments

    return name, f"A {name}.", function["parameters"]["properties"], make


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if not isinstance(value, list | dict) else json.dumps(value, ensure_ascii=False)


def extraction_conversation(rng: random.Random) -> tuple[list[Tool], list[Message]]:
    """Put what a text says into a schema: as a call of a tool, or as a bare JSON document."""
    record = pick(rng, RECORDS) if rng.random() < 0.6 else _random_record(rng)
    name, description, properties, make = record
    schema = {"properties": properties, "required": list(properties), "title": name, "type": "object"}
    examples = [make(rng) for _ in range(rng.choices((1, 2, 3, 4), (50, 25, 15, 10))[0])]
    ask = expand(
        rng,
        "[extract|record|read off|note|structure] the data: |[what does this say|put this into the form]: |[extract|get] [the|] {n} [from|out of]: ||||",
        n=name,
    )
    if rng.random() < 0.55:
        tools = [function_tool(name, description, dict(properties), list(properties))]
        tools = distinct(tools + [synthetic_tool(rng).tool for _ in range(pick(rng, (0, 0, 0, 1)))])
        messages = system_message(rng)
        for text, arguments in examples:
            messages.append(
                {
                    "role": "user",
                    "content": f"{ask} {text}".strip() if name not in ("Joke", "FunnyStory") else capitalise(text),
                }
            )
            messages.append(call_message([(name, arguments)]))
            if len(examples) > 1 or rng.random() < 0.3:
                done = pick(rng, ("ok", "You have called the tool.", "saved", '{"saved": true}'))
                messages += [
                    result_message(name, done),
                    {
                        "role": "assistant",
                        "content": pick(rng, ("Done.", "I have recorded it.", "It is recorded.", f"I called {name}.")),
                    },
                ]
        return tools, messages
    shown = json.dumps(
        schema if rng.random() < 0.5 else {key: part.get("type") for key, part in properties.items()},
        ensure_ascii=False,
    )
    order = expand(
        rng,
        "[Answer|Respond|Reply] [with|in|as] [a|] JSON [object|document|] [of|for|following|matching] this schema: {s}|[Return|Give me|Write] [only|] JSON [with|that has] the [keys|schema|form] {s}",
        s=shown,
    )
    messages = [] if rng.random() < 0.5 else [{"role": "system", "content": order}]
    for index, (text, document) in enumerate(examples):
        content = (
            text
            if messages and (index or messages[0]["role"] == "system")
            else f"{text}\n{order}"
            if rng.random() < 0.5
            else f"{order}\n{text}"
        )
        messages += [
            {"role": "user", "content": content},
            {"role": "assistant", "content": json.dumps(document, ensure_ascii=False)},
        ]
    return [], messages
