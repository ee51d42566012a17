"""Tasks: one class per task defines everything that is specific to it (`task.Task`).

`panorama`, `outpaint` and `depth` are the paper's tasks. `opening.task_from` returns a task by its name or class path.
"""
