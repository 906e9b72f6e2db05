# ruff: noqa: E501 (phrase templates are one line each)
"""Calculator jobs.

Conventions of expressions, kept everywhere:
- numbers as the user wrote them (digits and decimals verbatim), without thousands separators, signs or currency marks;
  numbers given as words become digits;
- one space on both sides of a binary operator, numbers in order of mention;
- p percent of x is `x * p / 100`; x plus p percent is `x + x * p / 100`; x less p percent is `x - x * p / 100`;
- square, cube, power: `x ** 2`; square root: `x ** 0.5`; average: `(a + b) / 2`; "a, then times b": `(a + ...) * b`;
- half, a third, a quarter of x: `x / 2`, `/ 3`, `/ 4`; twice x, double x: `x * 2`; remainder: `a % b`.
"""

from typing import Any

from langchain_layerroute.front_desk.arithmetic import calculator
from langchain_layerroute.front_desk.replies import DeskError
from layerroute_training.embedded.conversations import values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job
from layerroute_training.embedded.conversations.text import pick


def calculate(expression: str) -> Call:
    """The calculator's call and true result."""
    try:
        result: dict[str, Any] = calculator(expression)
    except DeskError as error:
        result = {"error": str(error)}
    return Call("calculator", {"expression": expression}, result)


def _number(scene: Scene, kind: str = "any") -> tuple[str, str]:
    """A number as written by the user and as it stands in the expression."""
    rng = scene.rng
    value: float | int
    if kind == "small":
        value = rng.randint(2, 20)
    elif kind == "count":
        value = rng.randint(2, 150) if rng.random() < 0.8 else rng.randint(150, 3000)
    elif kind == "money":
        value = values.money(rng)
        if isinstance(value, float) and rng.random() < 0.6:
            text = f"{value:.2f}"
            return text, text
    elif kind == "percent":
        value = pick(rng, (5, 10, 15, 20, 25, 30, 8, 12, 18, 19, 7, 3, 2.5, 7.5, 12.5, rng.randint(1, 99)))
    else:
        value = values.amount(rng, negative=rng.random() < 0.1)[1]
    return (str(value) if kind == "percent" else values.written(rng, value)), str(value)


# template of the whole request, template of the imperative, expression, kinds of its numbers.
_SUMS: tuple[tuple[str, str, str, str], ...] = (
    (
        "[what is|what's|what do you get for|how much is|tell me|I need|what does|quick question: what is|I wonder what] "
        "{a} [plus|+|and] {b}? | the sum of {a} and {b} | {a} + {b}? | {a} plus {b}[?|]",
        "[add {a} and {b}|add {a} to {b}|add {a} and {b} together|add up {a} and {b}|sum {a} and {b}|calculate {a} + {b}|work out {a} plus {b}|compute {a}+{b}]",
        "{a} + {b}",
        "any any",
    ),
    (
        "[what is|what's|how much is|what remains of|tell me|I'd like to know] {a} [minus|less|-] {b}?|{a} - {b}?|"
        "the difference [between|of] {a} and {b}|what is the difference between {a} and {b}?|"
        "how much is left [if I take {b} from {a}|when {b} is taken away from {a}]?|{a} minus {b}[?|]",
        "[subtract {b} from {a}|take {b} away from {a}|take {b} off {a}|calculate {a} - {b}|work out {a} minus {b}|compute {a}-{b}|deduct {b} from {a}]",
        "{a} - {b}",
        "any any",
    ),
    (
        "[what is|what's|how much is|how many are|tell me|do you know|can you tell me] {a} [times|multiplied by|*|x] {b}?|{a} * {b}?|"
        "the product of {a} and {b}|what is the product of {a} and {b}?|{a} times {b}[?|]|what's {a}x{b}?|{a} by {b} multiplied is what?",
        "[multiply {a} [by|with|and] {b}|calculate {a} [*|times|x] {b}|work out {a} times {b}|compute {a}*{b}|do the multiplication {a} times {b}]",
        "{a} * {b}",
        "any any",
    ),
    (
        "[what is|what's|how much is|tell me] {a} [divided by|over|/] {b}?|{a} / {b}?|how often does {b} go into {a}?|"
        "the quotient of {a} and {b}|{a} divided by {b}[?|]|how much does everyone [pay|get] [if|when] {a} is [split|shared] [among|between] {b} [people|friends|of us]?|"
        "what is each share [if|when] {b} people split {a}?",
        "[divide {a} by {b}|calculate {a} / {b}|work out {a} divided by {b}|split {a} [among|between|by|into|across] {b} [people|friends|teams|parts|]|"
        "share {a} [equally|evenly|] [among|between] {b} [people|guests|colleagues|]]",
        "{a} / {b}",
        "any small",
    ),
    (
        "[what is|what's|how much is|tell me|I need|calculate] {b}[%| %| percent| per cent] of {a}[?|]|{b}% of {a}?|"
        "how much is [a|the] {b} [percent|%] [tip|fee|discount|commission|tax|deposit] [on|of] [a bill of|a total of|an order of|] [$|€|£|]{a}?|"
        "how much do I [tip|pay] at {b} percent [on|of] {a}?|if I tip {b}% on {a}, how much is the tip?",
        "[calculate|work out|compute|find|take|figure out|get] {b}[%| percent] of {a}|[work out|calculate|compute] [a|the] {b}[%| percent] [tip|fee|tax|deposit] on {a}",
        "{a} * {b} / 100",
        "money percent",
    ),
    (
        "what [is|do I pay for] {a} [plus|with|including|and] [a|] {b}[%| percent] [tip|tax|vat|service|surcharge|]?|"
        "[how much is|what is|what's] {a} [with|including] [a|] {b} percent [tip|tax|vat|service charge] [on top|added|]?|"
        "what is the total of {a} with {b}% [tip|tax|vat]?|what is {a} increased by {b}[%| percent]?|{a} plus {b}%?",
        "add [a|] {b}[%| percent] [tip|tax|vat|service|] to {a}|increase {a} by {b}[%| percent]|raise {a} by {b} percent",
        "{a} + {a} * {b} / 100",
        "money percent",
    ),
    (
        "what is {a} [minus|less|with|after] [a|] {b}[%| percent] [discount|off|rebate|]?|what does {a} come to with {b}% off?|"
        "what is {a} reduced by {b}[%| percent]?|how much is {a} after a {b} percent [discount|cut]?|{a} with {b}% off?",
        "take {b}[%| percent] off {a}|reduce {a} by {b}[%| percent]|apply a {b}[%| percent] discount to {a}|lower {a} by {b} percent",
        "{a} - {a} * {b} / 100",
        "money percent",
    ),
    (
        "what is {a} [squared|to the power of 2|to the second power]?|what's the square of {a}?|{a} squared[?|]",
        "square {a}|calculate the square of {a}",
        "{a} ** 2",
        "count",
    ),
    ("what is {a} cubed?|what's the cube of {a}?", "cube {a}|calculate the cube of {a}", "{a} ** 3", "small"),
    (
        "what is {a} [to the power of|to the power|raised to|raised to the power of|**|^] {b}?|{a} to the power of {b}?",
        "raise {a} to the power [of|] {b}|calculate {a} [to the power of|^|**] {b}",
        "{a} ** {b}",
        "small small",
    ),
    (
        "what is the square root of {a}?|square root of {a}[?|]|what's the root of {a}?|sqrt of {a}?",
        "[calculate|find|take|work out] the square root of {a}",
        "{a} ** 0.5",
        "count",
    ),
    (
        "what [is|do you get for] {a} [plus|+] {b} [plus|+] {c}?|what is the sum of {a}, {b} and {c}?|how much are {a}, {b} and {c} [together|in total|combined]?|"
        "{a} + {b} + {c}?|what do {a}, {b} and {c} add up to?|I [bought|spent|paid] {a}, {b} and {c}; what is the total?",
        "add {a}, {b} and {c}|add up {a}, {b} and {c}|sum {a}, {b} and {c}|total {a}, {b} and {c}|calculate {a} + {b} + {c}",
        "{a} + {b} + {c}",
        "any any any",
    ),
    (
        "what is the [average|mean] of {a}, {b} and {c}?|[average|mean] of {a}, {b}, {c}[?|]",
        "[calculate|work out|find] the [average|mean] of {a}, {b} and {c}|average {a}, {b} and {c}",
        "({a} + {b} + {c}) / 3",
        "any any any",
    ),
    (
        "what is the [average|mean] of {a} and {b}?|what lies halfway between {a} and {b}?",
        "[calculate|find] the [average|mean] of {a} and {b}|average {a} and {b}",
        "({a} + {b}) / 2",
        "any any",
    ),
    (
        "what is {a} [times|*] {b} [plus|+] {c}?|{a} * {b} + {c}?|[how much is|what's] {a} times {b}, plus {c}?",
        "calculate {a} [*|times] {b} [+|plus] {c}|multiply {a} by {b} and add {c}|multiply {a} by {b}, then add {c}",
        "{a} * {b} + {c}",
        "any small any",
    ),
    (
        "what is {a} [times|*] {b} [minus|-] {c}?|{a} * {b} - {c}?",
        "calculate {a} [*|times] {b} [-|minus] {c}|multiply {a} by {b} and subtract {c}|multiply {a} by {b}, then subtract {c}",
        "{a} * {b} - {c}",
        "any small any",
    ),
    (
        "what is ({a} + {b}) * {c}?|what is the sum of {a} and {b}, times {c}?|({a} + {b}) * {c}?",
        "calculate ({a} + {b}) * {c}|add {a} and {b}, then multiply by {c}|add {a} and {b} and multiply the [sum|result] by {c}",
        "({a} + {b}) * {c}",
        "any any small",
    ),
    (
        "what is ({a} - {b}) * {c}?|({a} - {b}) * {c}?",
        "calculate ({a} - {b}) * {c}|subtract {b} from {a}, then multiply by {c}|subtract {b} from {a} and multiply the result by {c}",
        "({a} - {b}) * {c}",
        "any any small",
    ),
    (
        "what is ({a} + {b}) / {c}?|({a} + {b}) / {c}?|if {a} and {b} are added and split by {c}, how much is that?",
        "calculate ({a} + {b}) / {c}|add {a} and {b}, then divide by {c}|add {a} and {b} and divide the [sum|result] by {c}",
        "({a} + {b}) / {c}",
        "any any small",
    ),
    (
        "what is ({a} - {b}) / {c}?|({a} - {b}) / {c}?",
        "calculate ({a} - {b}) / {c}|subtract {b} from {a}, then divide by {c}",
        "({a} - {b}) / {c}",
        "any any small",
    ),
    (
        "what is {a} [times|*] {b} [divided by|/] {c}?|{a} * {b} / {c}?",
        "calculate {a} * {b} / {c}|multiply {a} by {b} and divide by {c}|multiply {a} by {b}, then divide by {c}",
        "{a} * {b} / {c}",
        "any any small",
    ),
    (
        "what is {a} [times|*] {b} [times|*] {c}?|{a} * {b} * {c}?|what is the volume of a box of {a} by {b} by {c}?|{a} x {b} x {c}?",
        "calculate {a} * {b} * {c}|multiply {a}, {b} and {c}",
        "{a} * {b} * {c}",
        "any small small",
    ),
    (
        "what is {a} [divided by|/] {b} [plus|+] {c}?|{a} / {b} + {c}?",
        "calculate {a} / {b} + {c}|divide {a} by {b} and add {c}|divide {a} by {b}, then add {c}",
        "{a} / {b} + {c}",
        "any small any",
    ),
    (
        "what is {a} [minus|-] {b} [minus|-] {c}?|{a} - {b} - {c}?|I had {a} and spent {b} and {c}; how much is left?|what is left of {a} after {b} and {c}?",
        "calculate {a} - {b} - {c}|subtract {b} and {c} from {a}|take {b} and {c} off {a}",
        "{a} - {b} - {c}",
        "any any any",
    ),
    (
        "what is {a} [plus|+] {b} [minus|-] {c}?|{a} + {b} - {c}?|{a} people are here, {b} arrive and {c} leave; how many are there now?",
        "calculate {a} + {b} - {c}|add {a} and {b}, then subtract {c}",
        "{a} + {b} - {c}",
        "any any any",
    ),
    (
        "what is {a} [times|*] ({b} + {c})?|{a} * ({b} + {c})?|what is {a} times the sum of {b} and {c}?",
        "calculate {a} * ({b} + {c})|multiply {a} by the sum of {b} and {c}",
        "{a} * ({b} + {c})",
        "any any any",
    ),
    (
        "what is {a} [divided by|/] ({b} + {c})?|{a} / ({b} + {c})?|what is {a} divided by the sum of {b} and {c}?",
        "calculate {a} / ({b} + {c})|divide {a} by the sum of {b} and {c}",
        "{a} / ({b} + {c})",
        "any small small",
    ),
    (
        "what is [half|one half] of {a}?|how much is half of {a}?|half of {a}[?|]",
        "halve {a}|calculate half of {a}|take half of {a}",
        "{a} / 2",
        "any",
    ),
    ("what is [a|one] third of {a}?|how much is a third of {a}?", "calculate a third of {a}", "{a} / 3", "any"),
    ("what is a quarter of {a}?|how much is one quarter of {a}?", "calculate a quarter of {a}", "{a} / 4", "any"),
    ("what is [twice|double] {a}?|how much is twice {a}?", "double {a}|calculate twice {a}", "{a} * 2", "any"),
    ("what is [triple|three times] {a}?", "triple {a}", "{a} * 3", "any"),
    (
        "what is the remainder of {a} divided by {b}?|what is {a} [mod|modulo] {b}?|what remains when {a} is divided by {b}?",
        "calculate {a} [mod|modulo|%] {b}|find the remainder of {a} divided by {b}",
        "{a} % {b}",
        "count small",
    ),
    (
        "{a} {things} at {b} [each|apiece|a piece|per piece] [cost how much|come to what|make what total]?|what do {a} {things} at [$|€|£|]{b} [each|apiece] cost?|"
        "I [need|want|ordered|bought] {a} {things} at {b} each; what [is the total|does that cost]?|what is the total for {a} {things} at {b} each?|"
        "how much are {a} {things} at {b} each?|each of the {a} {things} costs {b}; what is the total?|we sell {a} {things} for {b} each, what do we earn?",
        "work out the price of {a} {things} at {b} each|calculate the cost of {a} {things} at {b} each|total up {a} {things} at {b} apiece",
        "{a} * {b}",
        "count money",
    ),
    (
        "[a|one] {thing} costs {a}; [what do|how much are] {b} of them [cost|]?|if one {thing} is {a}, how much are {b}?|a {thing} is {a} [euros|dollars|], what would {b} cost?|"
        "I work {a} hours a day; how many hours are {b} days?|there are {a} {things} in a box; how many are in {b} boxes?|"
        "[we have|there are] {a} tables with {b} seats each; how many seats [is that|are there]?|{a} rows of {b} {things}: how many in total?",
        "calculate {a} rows of {b} {things}|work out {a} boxes of {b} {things} each",
        "{a} * {b}",
        "count small",
    ),
    (
        "[I have|we have|the budget is|there are] {a} and [spend|use|give away|lose|pay] {b}; [what is left|how much is left|how much remains]?|"
        "[I paid with|I gave] {a} for a {thing} of {b}; what is my change?|out of {a} {things}, {b} are gone; how many are left?|"
        "the {thing} cost {a} and is now {b} cheaper; what does it cost now?",
        "work out the change from {a} for {b}|calculate what is left of {a} after {b}",
        "{a} - {b}",
        "money money",
    ),
    (
        "{a} {things} [fit into|are packed in|go into] boxes of {b}; how many boxes [do I need|are that]?|we drove {a} km in {b} hours; what was the [average|] speed?|"
        "the bill is {a} and we are {b} people; what does each pay?|a pack of {b} costs {a}; what is the price per piece?|how many groups of {b} can I make from {a} {things}?|"
        "I earn {a} in {b} weeks; how much is that per week?|rent of {a} shared by {b} flatmates is how much each?|{b} [people|friends|of us|colleagues|guests] [share|split] [a bill of|] {a}[;|,] [how much does each pay|what does each pay|how much is that each]?|if {b} [people|friends|guests] [share|split] {a}, how much does each [pay|get]?",
        "split a bill of {a} between {b} people|work out {a} per week over {b} weeks",
        "{a} / {b}",
        "money small",
    ),
)
_WEIGHTS = [5 if index < 7 else 1 for index in range(len(_SUMS))]
_THINGS = (
    ("pen", "pens"), ("ticket", "tickets"), ("chair", "chairs"), ("book", "books"), ("coffee", "coffees"), ("room", "rooms"),
    ("box", "boxes"), ("guest", "guests"), ("bottle", "bottles"), ("mug", "mugs"), ("plate", "plates"), ("poster", "posters"),
    ("apple", "apples"), ("night", "nights"), ("lamp", "lamps"), ("sandwich", "sandwiches"), ("stamp", "stamps"), ("badge", "badges"),
    ("cable", "cables"), ("towel", "towels"), ("seat", "seats"), ("brochure", "brochures"), ("key", "keys"), ("licence", "licences"),
)  # fmt: skip


def arithmetic_job(scene: Scene) -> Job:
    """A sum, a percentage, a word problem or a bare expression."""
    if scene.chance(0.12):
        return _bare_expression(scene)
    questions, commands, expression, kinds = scene.rng.choices(_SUMS, _WEIGHTS)[0]
    slots: dict[str, str] = {}
    exact: dict[str, str] = {}
    for letter, kind in zip("abc", kinds.split(), strict=False):
        slots[letter], exact[letter] = _number(scene, kind)
    slots["thing"], slots["things"] = pick(scene.rng, _THINGS)
    filled = expression.format(**exact)
    call = calculate(filled)
    return make_job(scene, questions, commands, (call,), calculation_answer(scene, call), **slots)


def _bare_expression(scene: Scene) -> Job:
    operators = scene.rng.choices(("+", "-", "*", "/"), k=scene.rng.randint(1, 3))
    parts = [_number(scene)[1].lstrip("-")]
    for operator in operators:
        parts += [operator, _number(scene, pick(scene.rng, ("any", "small")))[1].lstrip("-")]
    expression = " ".join(parts)
    shown = expression if scene.chance(0.5) else expression.replace(" ", "")
    call = calculate(expression)
    questions = "[what is|what's|how much is|what does {shown} equal|] {shown}?|{shown}|{shown} =|{shown} = ?"
    questions = questions.replace("what does {shown} equal|", "")
    commands = "[calculate|compute|evaluate|work out|solve|do] {shown}"
    return make_job(scene, questions, commands, (call,), calculation_answer(scene, call), shown=shown)


def calculation_answer(scene: Scene, call: Call) -> str:
    """What a calculation came to."""
    if "error" in call.result:
        return scene.reply("That does not work: {error}.", error=call.result["error"])
    return scene.reply(
        "{e} = {r}|{e} = {r}.|That is {r}.|It is {r}.|The result is {r}.|{r}",
        e=call.arguments["expression"],
        r=call.result["result"],
    )


_AFTERMATH = (
    ("[divide|split] {it} by {n}|divide {it} by {n}|split {it} [among|between] {n} [people|friends|of us]", "{r} / {n}", "small"),
    ("multiply {it} by {n}|multiply {it} by {n}", "{r} * {n}", "small"),
    ("add {n} to {it}|add {n}", "{r} + {n}", "count"),
    ("subtract {n} from {it}|take {n} off {it}|subtract {n}", "{r} - {n}", "count"),
    ("add {n}[%| percent] to {it}|add {n}[%| percent]|add a {n}[%| percent] [tip|fee|markup]", "{r} + {r} * {n} / 100", "percent"),
    ("[calculate|work out|take|tell me] {n}[%| percent] of {it}", "{r} * {n} / 100", "percent"),
    ("take {n}[%| percent] off {it}|reduce {it} by {n}[%| percent]", "{r} - {r} * {n} / 100", "percent"),
    ("double {it}", "{r} * 2", "small"),
    ("halve {it}|[calculate|take] half of {it}", "{r} / 2", "small"),
    ("square {it}", "{r} ** 2", "small"),
)  # fmt: skip


def _operand(scene: Scene, kind: str) -> str:
    if kind == "percent":
        return str(pick(scene.rng, (5, 8, 10, 12, 15, 19, 20, 25, 30, 50)))
    return str(scene.rng.randint(2, 12) if kind == "small" else scene.rng.randint(2, 300))


def aftermath(scene: Scene, result: Any, it: str) -> tuple[str, Call]:
    """A further calculation with a result: how it is said, and its call."""
    said, expression, kind = pick(scene.rng, _AFTERMATH)
    number = _operand(scene, kind)
    call = calculate(expression.format(r=result, n=number))
    return scene.say(said, it=it, n=number), call
