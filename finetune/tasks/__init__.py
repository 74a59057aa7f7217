"""What can be fine-tuned: a module each, found by the config key ``task=``.

A task's module has its config (a subclass of ``finetune.config.FinetuneConfig``), which it names as
``schema``, and a subclass of ``data.loading.clip_task.ClipTask``, registered here.
"""

from typing import TYPE_CHECKING

from engine.registry import Registry

if TYPE_CHECKING:
    from engine.training.task import Task

TASKS: "Registry[type[Task]]" = Registry("task", "finetune.tasks")
