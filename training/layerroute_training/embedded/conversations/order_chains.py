# ruff: noqa: E501 (phrase templates are one line each)
"""Jobs of several calls at the order desk."""

from layerroute_training.embedded.conversations import arithmetic, conversions, desk, values
from layerroute_training.embedded.conversations.jobs import Call, Job, Scene, make_job, stop_at_error
from layerroute_training.embedded.conversations.text import listing, pick


def several_orders_job(scene: Scene) -> Job:
    """Look up or change two or three orders."""
    ids = [values.order_id(scene.rng) for _ in range(pick(scene.rng, (2, 2, 3)))]
    if scene.chance(0.5):
        calls = tuple(desk.find(scene, order_id) for order_id in ids)
        answer = " ".join(desk.order_answer(scene, call) for call in calls)
        questions = "[what is|what's] the status of [orders|] {ids}?|where are [orders|my orders] {ids}?|have [orders|] {ids} shipped [yet|]?|[I need|I want] the details of orders {ids}|[status of|orders] {ids}?"
        commands = "[look up|check|find|show me|show|pull up] [orders|] {ids}|check the status of orders {ids}"
        return make_job(scene, questions, commands, calls, answer, ids=listing(ids))
    status = pick(scene.rng, desk.STATUSES)
    calls = tuple(desk.update(scene, order_id, status) for order_id in ids)
    answer = " ".join(desk.update_answer(scene, call) for call in calls)
    if status == "cancelled" and scene.chance(0.7):
        return make_job(
            scene,
            "[I want to|I'd like to|we need to|can I] cancel [orders|] {ids}|orders {ids} [are|should be] cancelled|please cancel [orders|] {ids}",
            "cancel [orders|both orders|] {ids}" if len(ids) == 2 else "cancel [orders|] {ids}",
            calls,
            answer,
            ids=listing(ids),
        )
    return make_job(
        scene,
        "orders {ids} [are|should be|can be] [marked as|set to] {status}|[orders|] {ids} are {status} [now|]",
        "[mark|set|update|change] [orders|] {ids} [as|to] {status}|set the status of orders {ids} to {status}",
        calls,
        answer,
        ids=listing(ids),
        status=status,
    )


def find_then_update_job(scene: Scene) -> Job:
    """Look an order up, then change it; sometimes only under a condition."""
    order_id = values.order_id(scene.rng)
    status = pick(scene.rng, ("cancelled", "cancelled", "cancelled", "delivered", "shipped", "processing"))
    verb = {
        "cancelled": "cancel it",
        "delivered": "mark it as delivered",
        "shipped": "mark it as shipped",
        "processing": "set it back to processing",
    }[status]
    others = [other for other in desk.STATUSES if other != status]
    if scene.chance(0.45):
        wanted = pick(scene.rng, [other for other in others if other != "cancelled"])
        real = wanted if scene.chance(0.55) else pick(scene.rng, [other for other in desk.STATUSES if other != wanted])
        found = desk.find(scene, order_id, error=0.05, status=real)
        calls = [found]
        if "error" in found.result:
            answer = desk.order_answer(scene, found)
        elif real == wanted:
            calls.append(desk.update(scene, order_id, status, old=real, error=0))
            answer = desk.update_answer(scene, calls[-1])
        else:
            answer = scene.reply(
                "Order {id} is {real}, so I left it as it is.|It is {real}, so nothing was changed.",
                id=order_id,
                real=real,
            )
        questions = "[if|in case|when] order {id} is [still|already|] {wanted}, [please|] {verb}|is order {id} [still|already|] {wanted}? If so, {verb}"
        commands = "[check|look up|see] [order|] {id} and {verb} if it is [still|already|] {wanted}|{verb2} order {id} if it is [still|already|] {wanted}|look up order {id}, and if it is {wanted}, {verb}"
        if status != "cancelled":
            commands = commands.replace("{verb2} order {id} if it is [still|already|] {wanted}|", "")
        return make_job(
            scene, questions, commands, tuple(calls), answer, id=order_id, wanted=wanted, verb=verb, verb2="cancel"
        )
    found = desk.find(scene, order_id, error=0.06, status=pick(scene.rng, others))
    calls = [found]
    answer = desk.order_answer(scene, found)
    if "error" not in found.result:
        calls.append(desk.update(scene, order_id, status, old=found.result["status"], error=0))
        answer = desk.update_answer(scene, calls[-1])
        if scene.chance(0.3):
            answer = f"{desk.order_answer(scene, found)} {answer}"
    return make_job(
        scene,
        "where is order {id}? [Please|] {Verb} [afterwards|then|]|what is the status of order {id}? Then {verb}|who placed order {id}? Then {verb}",
        "[look up|check|find|pull up|open|show me|look at|get] [order|] {id} [and|, then|and then|and afterwards] {verb}|find order {id} and {verb}",
        tuple(calls),
        answer,
        id=order_id,
        verb=verb,
        Verb=verb.capitalize(),
    )


def list_then_act_job(scene: Scene) -> Job:
    """List a customer's orders, then look up or change the one with a certain item."""
    name = values.person(scene.rng)
    listed = desk.orders_of(scene, name)
    calls = [listed]
    if "error" in listed.result:
        item = values.item(scene.rng)
        answer = desk.orders_answer(scene, listed)
    else:
        order = pick(scene.rng, listed.result["orders"])
        item = order["item"]
        answer = ""
    action = pick(scene.rng, ("cancelled", "cancelled", "delivered", "shipped", "find"))
    if not answer and action == order["status"]:
        action = "find"
    if action == "find":
        if not answer:
            found = Call(
                "find_order",
                {"order_id": order["order_id"]},
                {**desk.an_order(scene, order["order_id"], name, order["status"]), "item": item},
            )
            calls.append(found)
            answer = desk.order_answer(scene, found)
        questions = "how much did {name} pay for the {item}?|what is the total of {name}'s {item} order?|how many {item}s did {name} order?"
        commands = "find {name}'s {item} order and [show me the details|tell me the total|tell me the quantity]|look up {name}'s orders and show me the details of the {item}"
        return make_job(scene, questions, commands, tuple(calls), answer, name=name, item=item)
    if not answer:
        calls.append(
            desk.update(
                scene, order["order_id"], action, old=None if order["status"] == action else order["status"], error=0
            )
        )
        answer = desk.update_answer(scene, calls[-1])
    verb, end = {"cancelled": ("cancel", ""), "delivered": ("mark", "as delivered"), "shipped": ("mark", "as shipped")}[
        action
    ]
    return make_job(
        scene,
        "{name} no longer wants the {item}, [please cancel it|cancel that order]|[this is|I am] {name}, please cancel my {item} order|{name} wants to cancel the {item}"
        if action == "cancelled"
        else "{name}'s {item} [has been|was|is] {action}, please update the order|the {item} of {name} was {action}, [record that|update it]",
        "{verb} {name}'s {item} order {end}|{verb} the {item} [that {name} ordered|{name} ordered|of {name}] {end}|[look up|list|find|check] {name}'s orders and {verb} the [one with the|] {item} {end}|[look up|list] the orders of {name}, then {verb} the {item} {end}",
        tuple(calls),
        answer,
        name=name,
        item=item,
        verb=verb,
        end=end,
        action=action,
    )


def change_all_job(scene: Scene) -> Job:
    """List a customer's orders, then change every one of them."""
    name = values.person(scene.rng)
    listed = desk.orders_of(scene, name)
    status = pick(scene.rng, ("cancelled", "cancelled", "shipped", "delivered"))
    calls, answer = [listed], desk.orders_answer(scene, listed)
    if "error" not in listed.result:
        orders = [order for order in listed.result["orders"] if order["status"] != status][:3] or listed.result[
            "orders"
        ][:1]
        orders = [
            {**order, "status": "processing" if order["status"] == status else order["status"]} for order in orders
        ]
        calls = [Call("list_orders", listed.arguments, {**listed.result, "orders": orders})]
        calls += [desk.update(scene, order["order_id"], status, old=order["status"], error=0) for order in orders]
        answer = " ".join(desk.update_answer(scene, call) for call in calls[1:])
    return make_job(
        scene,
        "{name} wants to cancel [everything|all orders]|all orders of {name} [can|should] be cancelled"
        if status == "cancelled"
        else "all orders of {name} [are|were] {status}[, please update them|; update them]",
        "cancel [all|all the] orders of {name}|cancel all of {name}'s orders|cancel everything {name} ordered"
        if status == "cancelled"
        else "[mark|set] [all|all the] orders of {name} [as|to] {status}|[mark|set] all of {name}'s orders [as|to] {status}",
        tuple(calls),
        answer,
        name=name,
        status=status,
    )


def customer_of_order_job(scene: Scene) -> Job:
    """Who placed an order, and what else that customer ordered."""
    order_id = values.order_id(scene.rng)
    found = desk.find(scene, order_id, error=0.06)
    calls = [found]
    answer = desk.order_answer(scene, found)
    if "error" not in found.result:
        listed = desk.orders_of(scene, found.result["customer"], error=0)
        order = {key: found.result[key] for key in ("order_id", "item", "status")}
        others = listed.result["orders"][1:]
        calls.append(Call("list_orders", listed.arguments, {**listed.result, "orders": [order, *others]}))
        answer = desk.orders_answer(scene, calls[-1])
    return make_job(
        scene,
        "who [placed|made|is behind] order {id}, and what else did they order?|who [placed|made|ordered] order {id}? [List|Show|Show me] [all|the|all other] orders of [that customer|this customer|them]|whose order is {id}? And what else did [they|that customer] order?|which other orders does the customer of {id} have?|what else did the customer of order {id} [order|buy]?|what else has the person who placed order {id} ordered?",
        "[look up|find|check] order {id} and [list|show|show me] [all|the other|] orders of that customer|look up order {id}, then list [the|all] orders of [its|that] customer|find out who placed order {id} and [list|show] all their orders|list all orders of the customer of order {id}",
        tuple(calls),
        answer,
        id=order_id,
    )


def order_total_job(scene: Scene) -> Job:
    """Calculate with, or convert, the total of an order."""
    order_id = values.order_id(scene.rng)
    found = desk.find(scene, order_id, error=0.05)
    failed = "error" in found.result
    total = found.result.get("total", 10)
    if scene.chance(0.45):
        target = pick(scene.rng, conversions.COMMON_CODES[1:])
        calls = [found] if failed else [found, conversions.exchange(scene, total, "EUR", target)]
        answer = desk.order_answer(scene, found) if failed else conversions.currency_answer(scene, calls[-1])
        return make_job(
            scene,
            "[what is|how much is] the total of order {id} [from {eur}|which is in {eur}|, given in {eur},] in {to}?|order {id} is in {eur}; [what is its total|how much is it] in {to}?",
            "[look up|find|check] order {id} and convert [its|the] total from {eur} to {to}|convert the total of order {id} from {eur} to {to}|[look up|find|check] order {id} and convert [its|the] total [to|into] {to}|convert the total of order {id} [to|into] {to}|[look up|find] [order|] {id}, then convert its total from {eur} [to|into] {to}",
            tuple(calls),
            answer,
            id=order_id,
            to=conversions.currency_word(scene, target),
            eur=pick(scene.rng, ("euros", "EUR", "euro")),
        )
    if scene.chance(0.25):
        other = values.order_id(scene.rng)
        calls = [found, desk.find(scene, other, error=0.04)]
        answer = "I could not find both orders."
        if not failed and "error" not in calls[1].result:
            calls.append(arithmetic.calculate(f"{total} + {calls[1].result['total']}"))
            answer = scene.reply("Together they cost {r}.|The total is {r}.", r=calls[2].result["result"])
        return make_job(
            scene,
            "[what do|how much do] orders {id} and {other} [cost|come to] [together|in total|combined]?|what is the total of orders {id} and {other} together?",
            "[look up|find] orders {id} and {other} and add [up|] their totals|add the totals of orders {id} and {other}|add up orders {id} and {other}",
            stop_at_error(calls),
            answer,
            id=order_id,
            other=other,
        )
    then, second = arithmetic.aftermath(scene, total, "its total")
    calls = [found] if failed else [found, second]
    answer = desk.order_answer(scene, found) if failed else arithmetic.calculation_answer(scene, second)
    return make_job(
        scene,
        "what is the total of order {id}? Then {then}|how much is order {id}? [Then|And] {then}|what does order {id} cost? After that, {then}",
        "[look up|find|check|pull up] order {id} [and|, then|and then] {then}|find order {id} and {then}",
        tuple(calls),
        answer,
        id=order_id,
        then=then,
    )
