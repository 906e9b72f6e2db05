from types import SimpleNamespace

import torch  # noqa: F401
from step_reports import make_step

DEFAULT_TASKS = ("first", "second")


class FrontDesk:
    def __init__(self, model):
        self.model = model

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def run(self, task, on_step, on_call, keep_history):
        on_step(make_step())
        return SimpleNamespace(answer=f"Done: {task}.", error=None, document=lambda: {"answer": task})
