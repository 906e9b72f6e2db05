# ruff: noqa: E501 (phrase templates are one line each)
"""Turns that need no tool: greetings, thanks, questions back, refusals, general knowledge."""

from layerroute_training.embedded.conversations import pools, values
from layerroute_training.embedded.conversations.jobs import Job, Scene
from layerroute_training.embedded.conversations.text import pick

# Requests that lack something, and what to ask.
_INCOMPLETE = (
    ("[cancel|please cancel|I want to cancel] [my|the|an] order|I'd like to cancel my order", "Which order should I cancel? Please give me the order number.|Which order is it? I need its number."),
    ("where is my order?|what is the status of my order?|has my order shipped?", "Which order do you mean? Please give me the order number."),
    ("[add|schedule|book] [a meeting|an appointment|an event]|[I need|I want] an appointment", "What is it called, and on which day and at what time?"),
    ("[add|schedule|book] {title} tomorrow|[add|schedule] {title} {when}", "At what time?|At what time should I add {title}?"),
    ("[add|schedule|book] {title} at {time}", "On which day?|On which day should I add {title}?"),
    ("convert {n} [dollars|euros|pounds|yen|kronor]|change {n} [dollars|euros]", "Into which currency?|To which currency should I convert it?"),
    ("convert {n} [km|miles|kilos|pounds|litres|feet|inches]", "Into which unit?|To which unit should I convert it?"),
    ("what's the weather [like|]?|how is the weather [tomorrow|today|]?|will it rain [tomorrow|today|]?|do I need an umbrella?", "For which city?|In which city?"),
    ("[add|make|take|write] a note|I want to note something", "What should the note say?|What should I write down?"),
    ("search [my|the] notes", "What should I look for?"),
    ("[show|list] [the|my] orders", "Of which customer?|For which customer?"),
    ("mark order {id} [please|]|change the status of order {id}|update order {id}", "Which status should order {id} get: processing, shipped, delivered or cancelled?"),
)  # fmt: skip

_IMPOSSIBLE = (
    "[book|reserve] [me|] [a flight|a hotel room|a rental car|a table for two] [in|to] {city}",
    "[order|buy] [me|] [a pizza|some sushi|a new {item}|flowers] [please|]",
    "[play|put on] [some|] [music|jazz|a song by {name}]",
    "[send|write] [an email|a text message|a letter|a fax] to {name}",
    "call {name} [for me|now|]",
    "[turn|switch] [on|off] the [lights|heating|alarm|television]",
    "[translate|put] \"{word}\" [into|in] [French|German|Spanish|Japanese|Latin]",
    "what [is|are] the [news|football results|stock price of {word}|lottery numbers] [today|]?",
    "who won the [match|election|race] [in {city}|yesterday|last night]?",
    "[open|unlock] the [front|back|garage] door",
    "draw [me|] [a picture of|] a {item}",
    "[delete|remove] [note|event] {n}",
    "[give me|tell me] {name}'s [phone number|address|password|salary]",
    "how do I get from {city} to {city2} by [train|car|bus]?",
    "order a taxi [for|to] {city}",
)  # fmt: skip

_KNOWLEDGE = (
    ("[what is|what's] the capital of {x}", "{y}.|The capital of {x} is {y}.", (
        ("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Germany", "Berlin"), ("Japan", "Tokyo"), ("Norway", "Oslo"),
        ("Portugal", "Lisbon"), ("Austria", "Vienna"), ("Poland", "Warsaw"), ("Greece", "Athens"), ("Egypt", "Cairo"), ("Kenya", "Nairobi"),
        ("Peru", "Lima"), ("Chile", "Santiago"), ("Canada", "Ottawa"), ("Australia", "Canberra"), ("Sweden", "Stockholm"), ("Finland", "Helsinki"),
        ("Denmark", "Copenhagen"), ("Hungary", "Budapest"), ("Ireland", "Dublin"), ("Iceland", "Reykjavik"), ("Thailand", "Bangkok"), ("China", "Beijing"),
        ("India", "New Delhi"), ("Cuba", "Havana"), ("Ghana", "Accra"), ("Belgium", "Brussels"))),
    ("[what is|what's] the opposite of {x}", "{y}.|The opposite of {x} is {y}.", (
        ("hot", "cold"), ("big", "small"), ("fast", "slow"), ("early", "late"), ("open", "closed"), ("light", "dark"), ("wet", "dry"),
        ("old", "young"), ("loud", "quiet"), ("rich", "poor"), ("strong", "weak"), ("empty", "full"))),
    ("how many {x} [are there|are] in a {y}", "There are {z} {x} in a {y}.|{z}.", (
        ("days", "week", "seven"), ("months", "year", "twelve"), ("hours", "day", "24"), ("minutes", "hour", "60"), ("seconds", "minute", "60"))),
    ("what colour is {x}", "{y}.|It is {y}.", (("the sky", "blue"), ("grass", "green"), ("snow", "white"), ("coal", "black"), ("a ripe tomato", "red"), ("a lemon", "yellow"))),
    ("which planet is {x}", "{y}.|That is {y}.", (("closest to the sun", "Mercury"), ("the largest", "Jupiter"), ("known as the red planet", "Mars"))),
)  # fmt: skip

_SMALL_TALK = (
    ("[hi|hello|hey|good morning|good afternoon|good evening|hello there|hi there|greetings|good day][!|.|]", "Hello! How can I help you?|Good day! What can I do for you?|Hi! How can I help?"),
    ("[hi|hello|hey], [my name is|I am|this is] {first}[!|.|]", "Hello {first}! How can I help you?|Good day, {first}! What can I do for you?"),
    ("[thanks|thank you|thanks a lot|many thanks|great, thanks|perfect, thank you|cheers|that's all, thanks|thank you very much][!|.|]", "You are welcome.|You are welcome!|Glad to help."),
    ("[bye|goodbye|see you|see you later|have a nice day|good night][!|.|]", "Goodbye!|Have a nice day!|See you!"),
    ("how are you [doing|today|]?|how's it going?|are you well?|how do you do?", "I am fine, thank you. How can I help you?|Very well, thank you. What can I do for you?"),
    ("who are you?|what are you?|are you [a robot|human|a person]?|what is your name?", "I am the front desk assistant, a small language model with tools.|I am an assistant. I can use tools for you."),
    ("[ok|okay|alright|fine|good|great|perfect|nice|understood][.|!|]", "Is there anything else?|Fine. Anything else?"),
    ("tell me a joke|do you know a joke?|make me laugh", "Why did the order stay at home? It was still processing.|What do you call a note that sings? A musical note."),
    ("I am [tired|bored|happy|hungry|stressed|excited|cold] [today|]", "I see. Can I help you with something?|Thank you for telling me. Can I do something for you?"),
    ("[I like|I love] {item}s|[I live in|I come from|greetings from] {city}", "That is nice. How can I help you?|Good to know! What can I do for you?"),
)  # fmt: skip

_ABILITIES = "[what can you do [for me|]?|how can you help [me|]?|what are you able to do?|which tools do you have?|what do you do?|help]"
_WHAT_TOOLS_DO = {
    "calculator": "calculate",
    "convert_units": "convert units",
    "convert_currency": "convert money",
    "get_weather": "tell you the weather",
    "find_order": "look up orders",
    "update_order": "update orders",
    "add_note": "keep notes",
    "search_notes": "search notes",
    "add_event": "add calendar events",
    "list_events": "show the calendar",
    "list_orders": "list a customer's orders",
}


def chat_job(scene: Scene, tools: tuple[str, ...]) -> Job:
    """A turn without a call, given the names of the tools that the prompt offers."""
    roll = scene.rng.random()
    slots = _slots(scene)
    known = [_WHAT_TOOLS_DO[name] for name in tools if name in _WHAT_TOOLS_DO]
    if roll < 0.12 and known:
        from_list = ", ".join(known[:-1]) + (" and " if len(known) > 1 else "") + known[-1]
        return _chat(scene, _ABILITIES, f"I can {from_list}.", slots)
    if roll < 0.32 and set(_WHAT_TOOLS_DO) <= set(tools):
        return _chat(scene, *pick(scene.rng, _INCOMPLETE), slots)
    if roll < 0.46:
        answer = "I am sorry, I cannot do that.|Sorry, I have no tool for that.|I am afraid I cannot help with that.|That is beyond what I can do here, sorry."
        return _chat(
            scene,
            "[{x}|please {x}|can you {x}?|could you {x}?]".replace(
                "{x}", pick(scene.rng, _IMPOSSIBLE).removesuffix("?")
            ),
            answer,
            slots,
        )
    if roll < 0.6:
        question, answer, facts = pick(scene.rng, _KNOWLEDGE)
        slots |= dict(zip("xyz", pick(scene.rng, facts), strict=False))
        return _chat(scene, f"{question}?", answer, slots)
    return _chat(scene, *pick(scene.rng, _SMALL_TALK), slots)


def missing_tool_job(scene: Scene, job: Job) -> Job:
    """A request that would need a tool which the prompt does not offer."""
    answer = (
        "I am sorry, I have no tool for that.|Sorry, I cannot do that here.|I cannot do that: I have no suitable tool."
    )
    return Job(job.sentence, "", (), scene.reply(answer))


def _slots(scene: Scene) -> dict[str, str]:
    rng = scene.rng
    return {
        "city": values.city(rng),
        "city2": values.city(rng),
        "name": values.person(rng),
        "first": values.first_name(rng),
        "item": pick(rng, pools.ITEMS),
        "word": values.made_up(rng),
        "n": str(rng.randint(2, 400)),
        "id": values.order_id(rng),
        "title": scene.own(values.event_title(rng)),
        "when": values.when(rng, scene.today)[1],
        "time": values.clock(rng)[0],
    }


def _chat(scene: Scene, request: str, answer: str, slots: dict[str, str]) -> Job:
    text = scene.say(request, **slots)
    if not scene.lower and scene.chance(0.7):
        text = text[:1].upper() + text[1:]
    return Job(text, "", (), scene.reply(answer, **slots))
