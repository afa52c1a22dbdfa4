"""How fast something goes and how long it will take, beside the bar of a terminal."""

from rich.progress import ProgressColumn, Task
from rich.text import Text
from typing_extensions import override

from share_registry.values.imports import duration


class PaceColumn(ProgressColumn):
    """`120 of 400, 3.1/s, 1 min 30 s left`; empty where it is not known how many there are."""

    @override
    def render(self, task: Task) -> Text:
        if task.total is None:
            return Text("")
        parts = [f"{task.completed:.0f} of {task.total:.0f}"]
        if task.speed and task.completed < task.total:
            parts.append(f"{task.speed:.3g}/s")
        if task.time_remaining:
            parts.append(f"{duration(task.time_remaining)} left")
        return Text(", ".join(parts))
