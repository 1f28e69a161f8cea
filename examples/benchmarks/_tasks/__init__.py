"""The tasks of the everyday bench, by name; each reads its data when it is first asked for them."""

from _task import Data, Metric, Task

from _tasks import attention, dense, images, recurrent

TASKS = {
    task.name: task for task in (*images.TASKS, *attention.TASKS, *recurrent.TASKS, *dense.TASKS)
}

__all__ = ["TASKS", "Data", "Metric", "Task"]
