"""The fixed wording the demonstration agents are run, and were trained, with."""

TODAY = "2026-11-22"
"""The day on which the bundled demonstration data plays."""

FRONT_DESK_PROMPT = f"You are the front desk assistant. Today is {TODAY}. Use the tools; answer briefly."
PLANNER_PROMPT = "You are a planner. Write a short numbered plan."
