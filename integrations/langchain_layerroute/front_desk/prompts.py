"""The fixed wording the demonstration agents are run, and were trained, with."""

from collections.abc import Sequence

TODAY = "2026-11-22"
"""The day on which the bundled demonstration data plays."""

FRONT_DESK_PROMPT = f"You are the front desk assistant. Today is {TODAY}. Use the tools; answer briefly."
PLANNER_PROMPT = "You are a planner. Write a short numbered plan."


def summary_request(answers: Sequence[str]) -> str:
    """Return the planner's last user turn, after the task and its plan: what each step of the plan brought."""
    results = "\n".join(f"{number}. {answer}" for number, answer in enumerate(answers, 1))
    return f"Results:\n{results}\nSum up briefly."
