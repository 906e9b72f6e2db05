"""The agents over a scripted model: what they ask it, what they carry out, what they report."""

import importlib.util
import io
import json
import sys
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from scripted_chat import ScriptedChat, call

from langchain_layerroute.front_desk import FRONT_DESK_PROMPT, tool_schemas
from langchain_layerroute.front_desk.agent import DEFAULT_TASKS, FrontDesk
from langchain_layerroute.front_desk.runner import MAX_STEPS
from layerroute.errors import RequestError, RouterError
from layerroute.report import StepKind

DEMOS = Path(__file__).parents[2] / "demos"
LOOK, CANCEL = call("find_order", order_id="A-1042"), call("update_order", order_id="A-1042", status="cancelled")


@pytest.fixture
def demo(monkeypatch):
    """Loads a demo script the way `python demos/NAME.py` does: with its own folder first on the path."""
    monkeypatch.syspath_prepend(DEMOS)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"demo_{name}", DEMOS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    sys.modules.pop("shell", None)


def results(prompt):
    return [json.loads(message.content) for message in prompt if isinstance(message, ToolMessage)]


def test_calls_one_per_step_and_all_in_one_step_come_to_the_same(tmp_path):
    apart = ScriptedChat(script=[[LOOK], [CANCEL], "Order A-1042 is cancelled."])
    together = ScriptedChat(script=[[LOOK, CANCEL], "Order A-1042 is cancelled."])
    runs = [
        FrontDesk(model, tmp_path / name).run("Look up A-1042, cancel it")
        for model, name in ((apart, "apart"), (together, "together"))
    ]
    assert runs[0].tool_calls == runs[1].tool_calls == [LOOK, CANCEL]
    assert runs[0].answer == runs[1].answer == "Order A-1042 is cancelled."
    assert [len(run.steps) for run in runs] == [3, 2]
    assert results(apart.prompts[-1]) == results(together.prompts[-1])
    assert [result["status"] for result in results(apart.prompts[-1])] == ["shipped", "cancelled"]


def test_calls_of_one_step_are_carried_out_in_order(tmp_path):
    texts = [f"note {number}" for number in range(20)]
    model = ScriptedChat(script=[[call("add_note", text=text) for text in texts], "Saved."])
    FrontDesk(model, tmp_path).run("save them")
    assert [note["text"] for note in results(model.prompts[-1])] == texts
    assert [note["note_id"] for note in results(model.prompts[-1])] == list(range(4, 24))


def test_the_model_is_shown_the_system_prompt_and_the_tools_in_schema_order():
    model = ScriptedChat(script=["Hello!"])
    with FrontDesk(model) as desk:
        run = desk.run("Hi there")
    assert run.answer == "Hello!"
    assert run.tool_calls == []
    assert [message.content for message in model.prompts[0]] == [FRONT_DESK_PROMPT, "Hi there"]
    assert model.offered[0] == [schema["function"]["name"] for schema in tool_schemas()]


def test_every_step_is_reported_as_it_ends():
    seen = []
    model = ScriptedChat(script=[[LOOK], "It is shipped."])
    with FrontDesk(model) as desk:
        run = desk.run("Where is A-1042?", lambda step: seen.append((step.kind, len(model.prompts))))
    assert seen == [(StepKind.TOOL_CALL, 1), (StepKind.PLANNING, 2)]
    assert [step.kind for step in run.steps] == [StepKind.TOOL_CALL, StepKind.PLANNING]


def test_calls_are_shown_with_their_results_between_the_steps():
    seen = []
    model = ScriptedChat(script=[[LOOK, call("fly")], "No.", [CANCEL], "Cancelled."])
    with FrontDesk(model) as desk:
        for task in ("Where is A-1042?", "Cancel it."):
            desk.run(task, lambda step: seen.append(step.kind), lambda *made: seen.append(made), keep_history=True)
    names = [str(item) if isinstance(item, StepKind) else item[0] for item in seen]
    assert names == ["tool_call", "find_order", "fly", "planning", "tool_call", "update_order", "planning"]
    assert [item[1] for item in seen if isinstance(item, tuple)] == [LOOK["arguments"], {}, CANCEL["arguments"]]
    assert json.loads(seen[1][2])["item"] == "desk lamp"
    assert "fly is not a valid tool" in seen[2][2]


def test_unknown_tools_and_bad_arguments_come_back_to_the_model():
    model = ScriptedChat(script=[[call("fly")], [call("find_order", order="x")], "I cannot do that."])
    with FrontDesk(model) as desk:
        run = desk.run("fly")
    assert run.answer == "I cannot do that."
    told = [message.content for message in model.prompts[-1] if isinstance(message, ToolMessage)]
    assert "fly is not a valid tool" in told[0]
    assert json.loads(told[1])["error"].startswith("bad arguments: order_id")


def test_an_agent_that_never_answers_is_stopped():
    model = ScriptedChat(script=[[LOOK]])
    with FrontDesk(model) as desk:
        run = desk.run("loop", keep_history=True)
        assert run.error == f"no answer after {MAX_STEPS} steps"
        assert run.error in run.answer
        assert run.tool_calls == [LOOK] * MAX_STEPS
        assert len(run.steps) == len(model.prompts) == MAX_STEPS
        model.script[:] = ["Hello!"]
        assert desk.run("hi", keep_history=True).answer == "Hello!"
    assert len(model.prompts[-1]) == 2, "the broken-off task is not part of the conversation"


def test_tasks_share_a_conversation_only_when_asked():
    model = ScriptedChat(script=[[LOOK], "It is shipped.", "A desk lamp.", "Who?", "Nobody."])
    with FrontDesk(model) as desk:
        desk.run("Where is A-1042?", keep_history=True)
        second = desk.run("What is in it?", keep_history=True)
        desk.run("And now?")
        desk.forget()
        desk.run("Who was that?", keep_history=True)
    assert second.tool_calls == []
    kinds = [type(message) for message in model.prompts[2]]
    assert kinds == [SystemMessage, HumanMessage, AIMessage, ToolMessage, AIMessage, HumanMessage]
    assert [len(prompt) for prompt in model.prompts[3:]] == [2, 2]


def test_an_empty_task_is_refused():
    with FrontDesk(ScriptedChat(script=["x"])) as desk, pytest.raises(RequestError, match="say in words"):
        desk.run("  \n")


def test_without_langchain_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain.agents", None)
    with pytest.raises(ImportError, match=r'pip install "layerroute\[demo\]"'):
        FrontDesk(ScriptedChat(script=["x"]))


def test_an_agent_prints_nothing(capfd):
    with FrontDesk(ScriptedChat(script=[[LOOK], "Done."])) as desk:
        desk.run(DEFAULT_TASKS[0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["front_desk", "analyst", "planner"])
def test_demos_explain_themselves(demo, name, capsys):
    with pytest.raises(SystemExit) as exit_:
        demo(name).main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"python demos/{name}.py" in text
    assert all(option in text for option in ("--task", "--model", "--adapter", "--router", "--json"))


def test_front_desk_demo_prints_one_document(demo, capsys):
    model = ScriptedChat(script=[[LOOK], "It is shipped."])
    assert demo("front_desk").main(["--task", "Where is A-1042?", "--json"], model) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert list(document) == ["answer", "tool_calls", "steps"]
    assert document["tool_calls"] == [LOOK]
    assert [step["kind"] for step in document["steps"]] == ["tool_call", "planning"]
    assert err == ""


def test_a_demo_prints_json_in_every_encoding(demo, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert demo("front_desk").main(["--task", "a", "--json"], ScriptedChat(script=["3 °C"])) == 0
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode())["answer"] == "3 °C"


def test_several_tasks_of_a_demo_print_one_document(demo, capsys):
    arguments = ["--task", "a", "--task", "b", "--json"]
    assert demo("front_desk").main(arguments, ScriptedChat(script=["one", "two"])) == 0
    assert [document["answer"] for document in json.loads(capsys.readouterr().out)["tasks"]] == ["one", "two"]


def test_tasks_of_a_demo_that_are_done_are_shown_when_the_next_fails(demo, capsys):
    class Broken(ScriptedChat):
        def _generate(self, messages, *arguments, **options):
            if messages[-1].content == "b":
                raise RouterError("no gates")
            return super()._generate(messages, *arguments, **options)

    arguments = ["--task", "a", "--task", "b", "--json"]
    assert demo("front_desk").main(arguments, Broken(script=["one"])) == 2
    assert [document["answer"] for document in json.loads(capsys.readouterr().out)["tasks"]] == ["one"]


def test_the_questions_to_the_analyst_are_one_conversation(demo, capsys):
    model = ScriptedChat(script=["one", "two", "three", "four", "five"])
    assert demo("analyst").main([], model) == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\nfour\nfive\n"
    assert [len(prompt) for prompt in model.prompts] == [2, 4, 6, 8, 10]


def test_planner_shows_the_plan_and_what_came_of_each_step_on_stderr(demo, capsys):
    model = ScriptedChat(script=["1. Look up order A-1042.", [LOOK], "It is shipped.", "Done: shipped."])
    assert demo("planner").main(["--task", "Where is A-1042?"], model) == 0
    out, err = capsys.readouterr()
    assert out == "Done: shipped.\n"
    shown = [
        "Where is",
        "1. Look up",
        "\n1. Look up",
        "find_order(",
        "desk lamp",
        "It is shipped.",
        "Sum up",
        "steps kind",
    ]
    assert [err.index(part) for part in shown] == sorted(err.index(part) for part in shown)


def test_planner_plans_every_task_by_itself(demo, capsys):
    script = ["1. Look it up.", [LOOK], "It is shipped.", "Done."]
    model = ScriptedChat(script=script * 2)
    assert demo("planner").main(["--task", "a", "--task", "b", "--json"], model) == 0
    assert [len(prompt) for prompt in model.prompts] == [2, 2, 4, 4] * 2
    documents = json.loads(capsys.readouterr().out)["tasks"]
    assert [len(document["steps"]) for document in documents] == [4, 4]


def test_front_desk_demo_answers_on_stdout_and_reports_on_stderr(demo, capsys):
    model = ScriptedChat(script=[[LOOK], "It is [bold]shipped[/bold]."])
    assert demo("front_desk").main(["--task", "Where is A-1042?"], model) == 0
    out, err = capsys.readouterr()
    assert out == "It is [bold]shipped[/bold].\n"
    assert err


def test_a_demo_that_did_not_finish_says_so_with_its_exit_code(demo, capsys):
    assert demo("front_desk").main(["--task", "loop", "--json"], ScriptedChat(script=[[LOOK]])) == 1
    assert "no answer" in json.loads(capsys.readouterr().out)["answer"]


def test_a_demo_shows_errors_in_words(demo, capsys):
    assert demo("front_desk").main(["--task", ""], ScriptedChat(script=["x"])) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("layerroute: the task is empty: say in words what should be done\n")


@pytest.mark.parametrize("name", ["front_desk", "analyst", "planner"])
def test_a_demo_refuses_an_option_in_words(demo, name, capsys):
    assert demo(name).main(["--router", ""]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("layerroute: router must be ")


@pytest.mark.parametrize("name", ["front_desk", "analyst", "planner", "check_requests"])
@pytest.mark.parametrize("option", ["--model", "--router"])
def test_a_demo_refuses_an_option_that_is_no_text(demo, name, option, capsys):
    assert demo(name).main([option, "\udcff"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"layerroute: {option} holds ")


@pytest.mark.parametrize("content", [None, b"no json", b"[]", b'{"id": "x"}', b"\xff"])
def test_a_request_file_that_is_none_is_told(demo, tmp_path, content, capsys):
    path = tmp_path / "requests.jsonl"
    if content is not None:
        path.write_bytes(content)
    assert demo("check_requests").main(["--file", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"layerroute: cannot read the requests in {path} (")


def test_analyst_reads_the_bookshop(demo, capsys):
    query = call("run_query", sql="SELECT COUNT(*) AS books FROM books WHERE stock = 0")
    script = [[call("list_tables")], [call("describe_table", table="books")], [query], "Two books are out of stock."]
    model = ScriptedChat(script=script)
    assert demo("analyst").main(["--task", "How many books are out of stock?", "--json"], model) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == "Two books are out of stock."
    assert results(model.prompts[-1])[-1] == {"columns": ["books"], "rows": [[2]]}
    assert model.prompts[0][0].content == "You are a data analyst. Answer from the database with the tools."


def test_planner_alternates_plans_and_calls(demo, capsys):
    weather = call("get_weather", city="Oslo", day="today")
    script = ["1. Look up order A-1042.\n2. Check the weather in Oslo.", [LOOK], "It is shipped.", [weather]]
    model = ScriptedChat(script=[*script, "Light rain.", "A-1042 is shipped; it rains in Oslo."])
    assert demo("planner").main(["--task", "Where is A-1042, and does it rain in Oslo?", "--json"], model) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["answer"] == "A-1042 is shipped; it rains in Oslo."
    assert document["tool_calls"] == [LOOK, weather]
    kinds = [step["kind"] for step in document["steps"]]
    assert kinds == ["planning", "tool_call", "planning", "tool_call", "planning", "planning"]
    assert [type(message) for message in model.prompts[0]] == [SystemMessage, HumanMessage]
    assert model.prompts[1][-1].content == "Look up order A-1042."
    assert len(model.prompts[3]) == 6, "the second step of the plan continues the conversation of the first"
    summary = model.prompts[-1]
    assert [message.content for message in summary[:2]] == [message.content for message in model.prompts[0]]
    assert summary[-1].content == "Results:\n1. It is shipped.\n2. Light rain.\nSum up briefly."


@pytest.mark.parametrize("plan", ["I would look it up.", "", "\n".join(f"{n}. look" for n in range(1, 30))])
def test_planner_stops_at_a_plan_that_is_none(demo, capsys, plan):
    assert demo("planner").main(["--json"], ScriptedChat(script=[plan])) == 1
    assert "numbered steps instead of 1 to 8" in json.loads(capsys.readouterr().out)["answer"]


@pytest.mark.parametrize(
    ("plan", "steps"),
    [
        ("1. a\n2. b", ["a", "b"]),
        ("Plan:\n 1) first thing \n\n2) second 3. thing\nDone.", ["first thing", "second 3. thing"]),
        ("10. ten", ["ten"]),
        ("1.\n2. b", ["b"]),
        ("1.5 km", []),
    ],
)
def test_plan_steps(demo, plan, steps):
    assert demo("planner").plan_steps(plan) == steps
