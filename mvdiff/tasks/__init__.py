"""Tasks: one class per task holds all that is special about it (`task.Task`).

`panorama`, `outpaint` and `depth` are the paper's. `opening.task_from` finds a task by its name or class path.
"""
