"""A planner: one call writes a numbered plan, the front desk carries out each step, a last call sums up.

Shows how the kind of a step alternates: planning steps (the plan, the answers, the summary) keep most blocks, tool-call
steps need fewer.

    python demos/planner.py
    python demos/planner.py --task "Cancel order A-1059 and put a call to the customer on tomorrow's calendar at 10:00."
    python demos/planner.py --router full --json
"""

import re
import sys
from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from shell import chat_model, present, read_options

from langchain_layerroute.callbacks import ComputeReportHandler
from langchain_layerroute.front_desk.agent import FrontDesk
from langchain_layerroute.front_desk.prompts import PLANNER_PROMPT, summary_request
from langchain_layerroute.front_desk.runner import DemoRun
from layerroute.commands.shared import telling
from layerroute.console import RunView
from layerroute.process import run_alone

TASKS = ("Check tomorrow's weather in Oslo, look up order A-1042, and save a note saying that Mara will call back.",)
MAX_PLAN_STEPS = 8


def plan_steps(plan: str) -> list[str]:
    """Return the steps of a numbered plan, without their numbers."""
    return re.findall(r"^[ \t]*\d+[.)][ \t]+(\S.*?)[ \t]*$", plan, re.MULTILINE)


def carry_out(model: BaseChatModel, desk: FrontDesk, task: str, view: RunView) -> DemoRun:
    """Plan the task, do each step in one conversation with the front desk, and sum up."""
    desk.forget()  # what an earlier task was about
    reports = ComputeReportHandler(view.step)
    config = RunnableConfig(callbacks=[reports])
    asked = [SystemMessage(PLANNER_PROMPT), HumanMessage(task)]
    plan = str(model.invoke(asked, config).text)
    view.remark(plan)
    planned = plan_steps(plan)
    if not 0 < len(planned) <= MAX_PLAN_STEPS:
        error = f"the plan has {len(planned)} numbered steps instead of 1 to {MAX_PLAN_STEPS}"
        return DemoRun(f"I stopped: {error}.\n{plan}", [], reports.steps, error)

    steps = list(reports.steps)
    runs = []
    for number, step in enumerate(planned, 1):
        view.heading(f"{number}. {step}")
        runs.append(desk.run(step, view.step, view.call, keep_history=True))
        view.remark(runs[-1].answer)
        steps += runs[-1].steps
    view.heading("Sum up")
    request = HumanMessage(summary_request([run.answer for run in runs]))
    summary = model.invoke([*asked, AIMessage(plan), request], config)
    return DemoRun(
        answer=str(summary.text),
        tool_calls=[call for run in runs for call in run.tool_calls],
        steps=[*steps, *reports.steps[1:]],
        error=next((run.error for run in runs if run.error is not None), None),
    )


@telling
def main(arguments: Sequence[str] | None = None, model: BaseChatModel | None = None) -> int:
    """Run the demo, with the model that the options name or with `model`."""
    options = read_options(__doc__, TASKS, arguments)
    model = model or chat_model(options)
    with FrontDesk(model) as desk:
        return present(options, lambda task, view: carry_out(model, desk, task, view))


if __name__ == "__main__":
    sys.exit(run_alone(main))
