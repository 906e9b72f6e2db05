# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs for the weather and the order desk."""

import dataclasses
from typing import Any

from layerroute_training.embedded.conversations import pools, values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job
from layerroute_training.embedded.conversations.text import listing, pick

STATUSES = ("processing", "shipped", "delivered", "cancelled")

_TODAY = (
    "today",
    "right now",
    "now",
    "at the moment",
    "this afternoon",
    "this evening",
    "tonight",
    "currently",
    "later today",
    "this morning",
)
_TOMORROW = (
    "tomorrow",
    "tomorrow",
    "tomorrow",
    "tomorrow morning",
    "tomorrow afternoon",
    "tomorrow evening",
    "tomorrow night",
)

_WEATHER: tuple[tuple[str, str], ...] = (
    (
        "plain",
        "[what is|what's|how is|how's|what will be|tell me] the weather [like|] [in|for|over in] {city} {day}?|[how's|what's] it [looking|like] in {city} {day}?|"
        "weather [in|for|] {city} {day}[?|]|{city} weather {day}[?|]|what [weather|kind of weather] [can I expect|should I expect|do they have|awaits me|is there] in {city} {day}?|"
        "[I'd like to know|I need to know|I want to know|do you know|can you tell me] [what the weather is like|how the weather is|the weather] in {city} {day}|"
        "what's the forecast for {city} {day}?|forecast [for|] {city} {day}[?|]|[I'm|we are] [flying|travelling|driving|going|heading|off] to {city} {day}[;|,] [what's the weather like|how is the weather] [there|]?|"
        "what does the weather look like in {city} {day}?|is the weather [nice|good|fine|bad] in {city} {day}?|and the weather in {city} {day}?|a guest asks about the weather in {city} {day}|"
        "[my flight lands|I land|I arrive] in {city} {day}[;|,] [how is the weather|what will the weather be like]?|[I have|we have] a picnic in {city} {day}, how is the weather?|"
        "how will the weather be in {city} {day}?|{day} in {city}: what weather?",
    ),
    (
        "rain",
        "[will|is] it [rain|going to rain|be raining|be wet|stay dry|raining] in {city} {day}?|[do|will] I need [an umbrella|a raincoat|an umbrella with me|rain gear] in {city} {day}?|should I [take|pack|bring] [an umbrella|a raincoat] [to|for|in] {city} {day}?|"
        "[I need to know|I wonder|I'd like to know|tell me|can you tell me] [whether|if] [I need an umbrella|it rains|it will rain|it is raining|I should bring an umbrella] in {city} {day}|umbrella in {city} {day}?|"
        "any rain in {city} {day}?|is it dry in {city} {day}?|does it rain in {city} {day}?|can I leave the umbrella at home in {city} {day}?|"
        "is it going to be wet in {city} {day}?|rain in {city} {day}?|what are the chances of rain in {city} {day}?|can we eat outside in {city} {day}?",
    ),
    (
        "temperature",
        "how [warm|cold|hot|chilly] [is it|will it be|does it get|is it going to be] in {city} {day}?|what [is|are|will be|'s] the [temperature|temperatures|high|low] in {city} {day}?|[temperature|temperatures] in {city} {day}[?|]|"
        "how many degrees [is it|will it be|are there] in {city} {day}?|is it [cold|warm|hot|freezing] in {city} {day}?|do I need a [jacket|coat|sweater|scarf] in {city} {day}?|will it be [warm|cold|hot|freezing] in {city} {day}?|"
        "[I wonder|tell me|I'd like to know] how [warm|cold|hot] it [is|gets|will be] in {city} {day}|what's the high in {city} {day}?|is it t-shirt weather in {city} {day}?",
    ),
    (
        "snow",
        "[will|is] it [snow|snowing|going to snow] in {city} {day}?|[is there|any|will there be|should I expect] snow in {city} {day}?|does it snow in {city} {day}?",
    ),
)  # fmt: skip
_WEATHER_COMMANDS = (
    "[check|look up|get|give me|show me|tell me|find|find out|fetch|look at] the [weather|weather|forecast|weather report] [in|for|of] {city} {day}|"
    "[tell me|find out|check] [how the weather is|what the weather is like|whether it rains|if it will rain|whether I need an umbrella|how warm it is|how cold it gets] in {city} {day}|"
    "[check|get|look up] {city}'s weather {day}|[check|see] [if|whether] it [rains|is raining|is dry|is cold|is warm|snows] in {city} {day}|"
    "check the weather in {city} {day}|get the weather for {city} {day}"
)


def weather(scene: Scene, city: str, day: str) -> Call:
    """The forecast's call and a random result."""
    condition = pick(scene.rng, pools.CONDITIONS)
    low = scene.rng.randint(-12, 28) if "snow" not in condition else scene.rng.randint(-12, 1)
    high = low + scene.rng.randint(1, 12) if "snow" not in condition else min(low + 5, 3)
    result: dict[str, Any] = {"city": city, "day": day, "condition": condition, "high_c": high, "low_c": low}
    if scene.chance(0.05):
        result = {"error": f"no weather for {city}"}
    return Call("get_weather", {"city": city, "day": day}, result)


def day_words(scene: Scene) -> tuple[str, str]:
    """How a day of the forecast is said, and the argument; nothing said means today."""
    if scene.chance(0.45):
        return ("tomorrow" if scene.chance(0.8) else pick(scene.rng, _TOMORROW)), "tomorrow"
    roll = scene.rng.random()
    return ("" if roll < 0.45 else "today" if roll < 0.8 else pick(scene.rng, _TODAY)), "today"


def weather_job(scene: Scene) -> Job:
    """Ask about the weather."""
    _, questions = scene.rng.choices(_WEATHER, (45, 27, 22, 6))[0]
    said, day = day_words(scene)
    city = values.city(scene.rng)
    call = weather(scene, city, day)
    if said and scene.chance(0.1):
        questions = "[what will the weather be|how is the weather|what's the weather like] {day} in {city}?"
    job = make_job(scene, questions, _WEATHER_COMMANDS, (call,), "", city=city, day=said)
    return dataclasses.replace(job, answer=weather_answer(scene, call, _asked_about(job.sentence)))


def _asked_about(request: str) -> str:
    words = request.lower()
    if any(word in words for word in ("rain", "umbrella", "wet", "dry")):
        return "rain"
    return "snow" if "snow" in words else "plain"


def weather_answer(scene: Scene, call: Call, kind: str = "plain") -> str:
    """What the forecast says, with a yes or no where that was asked."""
    if "error" in call.result:
        return scene.reply(
            "I have no weather for {city}.|Sorry, there is no forecast for {city}.", city=call.arguments["city"]
        )
    report = call.result
    facts = scene.reply(
        "{city} {day}: {condition}, {high} to {low} °C.|{city} {day}: {condition}, high {high} °C, low {low} °C.|{city} {day}: {condition}, between {low} and {high} °C.",
        city=report["city"],
        day=report["day"],
        condition=report["condition"],
        high=report["high_c"],
        low=report["low_c"],
    )
    wet = any(word in report["condition"] for word in pools.WET)
    if kind == "rain":
        return f"{'Yes, take an umbrella.' if wet else 'No rain expected.'} {facts}"
    if kind == "snow":
        return f"{'Yes.' if 'snow' in report['condition'] else 'No snow expected.'} {facts}"
    return facts


# Orders.

_FIND = (
    "[what is|what's] the status of order {id}?|where is [my|the|] order {id}?|has order {id} [shipped|been shipped|been sent|arrived|been delivered|left] [yet|already|]?|status of {id}[?|]|[what about|how about] order {id}?|order {id}?|"
    "what [is in|did I order in|was ordered in|does] order {id} [contain|]?|what's in order {id}?|who [placed|made|ordered|is behind] order {id}?|how much [is|was|did|does] order {id} [cost|come to|]?|what [is|was] the total of order {id}?|"
    "is order {id} [on its way|still processing|delivered|shipped|cancelled|ready]?|how is order {id} [doing|coming along]?|[I'm calling about|I have a question about|I'm waiting for|it's about] order {id}|"
    "[I need|I want|I'd like] [the details|details|information|an update|the status] [of|on|about|for] order {id}|[I'd like to know|do you know|can you tell me|tell me|I need to know] [where order {id} is|what happened to order {id}|whether order {id} has shipped|who ordered {id}|how much {id} costs|if {id} was delivered]|"
    "[a customer|a client|somebody|a guest] asks [about|for] order {id}|my order number is {id}, [where is it|what's the status|has it shipped]?|when does order {id} come?|did {id} [ship|arrive|go out] [yet|already|]?|for whom is order {id}?|{id} - where is it?|"
    "how many [pieces|items] are in order {id}?|which item is order {id}?|whose order is {id}?|anything new on {id}?"
)
_FIND_COMMANDS = (
    "[look up|look into|find|check|pull up|show me|show|get|open|search for|fetch|see|display|bring up] [the|] [order {id}|order {id}|order number {id}|details of order {id}|status of order {id}|{id}]|"
    "[tell me|find out] [the status of order {id}|where order {id} is|who ordered {id}|what is in order {id}|the total of order {id}|how much order {id} costs|whether order {id} has shipped]|check on order {id}|"
    "look up order {id}|check order {id}|track order {id}|look order {id} up|give me [the details of|details on|an update on] order {id}"
)
_LIST = (
    "[what|which things|what things] [has|did] {name} [ordered|order|bought|buy]?|[which|what] orders [does {name} have|has {name} placed|did {name} place|are there for {name}|belong to {name}|are under the name {name}]?|does {name} have [any|] [open|] orders?|"
    "[I am|my name is|this is|I'm] {name}[,|;] [what have I ordered|what are my orders|which orders do I have|can you see my orders]?|orders [of|by|for|from] {name}[?|]|{name}'s orders[?|]|how many orders does {name} have?|"
    "[I'd like to know|I need to know|tell me|can you tell me] [what {name} ordered|which orders {name} has|what {name} has bought]|[a customer called|customer|the customer] {name} [is here|is on the phone|calls] [;|,] what [has she ordered|has he ordered|orders are there]?|"
    "has {name} ordered anything [yet|lately|]?|are there [any|] orders for {name}?|is there anything [on order|in the system] for {name}?|what is {name} waiting for?"
)
_LIST_COMMANDS = (
    "[list|show|show me|find|get|look up|check|pull up|give me|display|see|bring up|search] [the|all|all the|] orders [of|for|by|from] [customer|] {name}|[list|show|look up|get|find|pull up] {name}'s orders|[list|show|tell me|look up|find out|check] [what {name} ordered|what {name} has ordered|which orders {name} has]|"
    "list all orders of {name}|list the orders for {name}|list everything {name} [has ordered|ordered|bought]"
)
_UPDATE = {
    "cancelled": (
        "order {id} [is|should be] cancelled|[I want to|I'd like to|I need to|we have to|the customer wants to|can I|could I|may I] cancel order {id}|I don't want order {id} any more|I no longer need order {id}|[the customer|the client] changed [her|his|their] mind about [order|] {id}[,|;] [please|] cancel it|the [customer|buyer|client] of {id} [no longer wants it|does not want it any more|wants to cancel][,|;] [please|] cancel it|"
        "order {id} can be cancelled|please have {id} cancelled|I changed my mind, cancel {id}|no need for order {id} any more, cancel it|call off order {id}",
        "[cancel|cancel|cancel|void|call off|drop] [order|order|order number|] {id}|set [order|] {id} to cancelled|[mark|update|change] [order|] {id} [as|to] cancelled|set the status of [order|] {id} to cancelled|cancel order {id}",
    ),
    "shipped": (
        "order {id} [has shipped|was shipped|has been shipped|went out|has gone out|left the warehouse|has left|is on its way] [today|this morning|just now|]|[the courier|the driver|dhl|the postman] [picked up|took|collected] order {id}|we [shipped|sent] order {id} [today|this morning|]|order {id} [just|] [went out|left][;|,] [please update it|update the status|change its status]",
        "[mark|set|update|change|flag|record] [order|] {id} [as|to] shipped|set the status of [order|] {id} to shipped|change the status of order {id} to shipped|mark order {id} as sent|update order {id}: it has shipped|put {id} on shipped|ship order {id}",
    ),
    "delivered": (
        "order {id} [has arrived|was delivered|has been delivered|is delivered|got there|reached the customer|has been received]|[the customer|the client] [received|has] order {id}|order {id} was handed over|order {id} [just|] [arrived|got delivered][;|,] [please update it|update the status|change its status|note that in the system]|we delivered order {id} [today|this morning|]",
        "[mark|set|update|change|flag|record] [order|] {id} [as|to] delivered|set the status of [order|] {id} to delivered|change the status of order {id} to delivered|mark order {id} as received|note order {id} as delivered|close order {id} as delivered|put {id} on delivered",
    ),
    "processing": (
        "order {id} is [being processed|in processing|being prepared|being worked on|back in processing]|we are [working on|preparing|processing] order {id} [again|now|]|order {id} was not shipped after all, it is still processing|reopen order {id}, it goes back to processing",
        "[mark|set|update|change|put|move|reset|return] [order|] {id} [as|to|back to] processing|set the status of [order|] {id} to processing|change the status of order {id} [back|] to processing|put order {id} back [into|to] processing",
    ),
}  # fmt: skip


def an_order(scene: Scene, order_id: str, customer: str | None = None, status: str | None = None) -> dict[str, Any]:
    """A random order as `find_order` reports it."""
    return {
        "order_id": order_id,
        "customer": customer or values.person(scene.rng),
        "item": values.item(scene.rng),
        "quantity": pick(scene.rng, (1, 1, 1, 2, 3, 4, scene.rng.randint(2, 40))),
        "status": status or pick(scene.rng, STATUSES),
        "total": values.money(scene.rng),
    }


def find(scene: Scene, order_id: str, error: float = 0.07, status: str | None = None) -> Call:
    """Look an order up."""
    result = {"error": f"no order {order_id}"} if scene.chance(error) else an_order(scene, order_id, status=status)
    return Call("find_order", {"order_id": order_id}, result)


def update(scene: Scene, order_id: str, status: str, old: str | None = None, error: float = 0.05) -> Call:
    """Set an order's status."""
    old = old or pick(scene.rng, [other for other in STATUSES if other != status])
    result: dict[str, Any] = {"order_id": order_id, "old_status": old, "status": status}
    if scene.chance(error):
        result = {"error": f"no order {order_id}"}
    return Call("update_order", {"order_id": order_id, "status": status}, result)


def orders_of(scene: Scene, customer: str, error: float = 0.06) -> Call:
    """List a customer's orders."""
    count = pick(scene.rng, (1, 1, 2, 2, 3, 4))
    full = customer if " " in customer else f"{customer} {pick(scene.rng, pools.LAST_NAMES)}"
    orders = [
        {"order_id": values.order_id(scene.rng), "item": values.item(scene.rng), "status": pick(scene.rng, STATUSES)}
        for _ in range(count)
    ]
    result: dict[str, Any] = {"customer": full, "orders": orders}
    if scene.chance(error):
        result = {"error": f"no customer {customer}"}
    return Call("list_orders", {"customer": customer}, result)


def find_job(scene: Scene) -> Job:
    """Ask about one order."""
    order_id = values.order_id(scene.rng)
    call = find(scene, order_id)
    return make_job(
        scene, _FIND, _FIND_COMMANDS, (call,), order_answer(scene, call), id=values.shown_id(scene.rng, order_id)
    )


def list_orders_job(scene: Scene) -> Job:
    """Ask what a customer ordered."""
    name = values.person(scene.rng) if scene.chance(0.85) else values.first_name(scene.rng)
    call = orders_of(scene, name)
    return make_job(scene, _LIST, _LIST_COMMANDS, (call,), orders_answer(scene, call), name=name)


def update_job(scene: Scene) -> Job:
    """Change the status of an order."""
    status = scene.rng.choices(STATUSES, (15, 25, 25, 40))[0]
    order_id = values.order_id(scene.rng)
    call = update(scene, order_id, status)
    return make_job(
        scene, *_UPDATE[status], (call,), update_answer(scene, call), id=values.shown_id(scene.rng, order_id)
    )


def order_answer(scene: Scene, call: Call) -> str:
    """What was found."""
    if "error" in call.result:
        return scene.reply(
            "I could not find order {id}.|There is no order {id}.|Sorry, there is no order {id}.",
            id=call.arguments["order_id"],
        )
    order = call.result
    return scene.reply(
        "Order {order_id} is {status}: {quantity} x {item} for {customer}, total {total}.|Order {order_id} ({quantity} x {item}, {customer}) is {status}; total {total}.|"
        "{order_id}: {quantity} x {item} for {customer}, {status}, total {total}.",
        **order,
    )


def orders_answer(scene: Scene, call: Call) -> str:
    """A customer's orders in a sentence."""
    if "error" in call.result:
        return scene.reply(
            "I found no customer {name}.|There is no customer called {name}.", name=call.arguments["customer"]
        )
    parts = [f"{order['order_id']} ({order['item']}, {order['status']})" for order in call.result["orders"]]
    count = len(parts)
    return scene.reply(
        "{name} has {count} order{s}: {orders}.|{name}: {orders}.",
        name=call.result["customer"],
        count=count,
        s="" if count == 1 else "s",
        orders=listing(parts),
    )


def update_answer(scene: Scene, call: Call) -> str:
    """What changed."""
    if "error" in call.result:
        return scene.reply(
            "There is no order {id}, so nothing was changed.|I could not find order {id}.",
            id=call.arguments["order_id"],
        )
    if call.result["status"] == "cancelled":
        return scene.reply(
            "Order {order_id} is cancelled.|Done: order {order_id} is cancelled (it was {old_status}).", **call.result
        )
    return scene.reply(
        "Order {order_id} is now {status}.|Done: order {order_id} went from {old_status} to {status}.|Order {order_id} is marked as {status}.",
        **call.result,
    )
