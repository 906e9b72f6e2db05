"""An analyst that answers questions about a bookshop from its SQLite database, which it can read but not write.

Shows an agent that has to find its way: which tables there are, what columns they have, then one query. The questions
are one conversation.

    python demos/analyst.py
    python demos/analyst.py --task "Which books are sold out?"
    python demos/analyst.py --model Qwen/Qwen2.5-0.5B-Instruct --json

What is not covered: one statement may run for two seconds and returns at most twenty rows; anything but reading is
refused by SQLite itself.
"""

import sys
from collections.abc import Sequence

from langchain_core.language_models import BaseChatModel
from shell import chat_model, present, read_options

from langchain_layerroute.bookshop import ANALYST_PROMPT, BookshopTools
from langchain_layerroute.front_desk.runner import ToolAgent
from layerroute.commands.shared import telling
from layerroute.process import run_alone

TASKS = (
    "How many books are out of stock?",
    "Which mystery books do we have?",
    "What is the most expensive book?",
    "Who bought the most books?",
    "What was the total revenue?",
)
"""One conversation: a later question looks only at what no earlier one has looked at."""


@telling
def main(arguments: Sequence[str] | None = None, model: BaseChatModel | None = None) -> int:
    """Run the demo, with the model that the options name or with `model`."""
    options = read_options(__doc__, TASKS, arguments)
    with BookshopTools() as bookshop:
        analyst = ToolAgent(model or chat_model(options), bookshop.tools(), ANALYST_PROMPT)
        return present(options, lambda task, view: analyst.run(task, view.step, view.call, keep_history=True))


if __name__ == "__main__":
    sys.exit(run_alone(main))
