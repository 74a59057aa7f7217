"""Names of what can be plugged in: body models, heads, tasks, objectives, labelled datasets.

    HEADS = Registry("head.name", "finetune.heads")

    @HEADS.register("model_based")
    class ModelBasedHead(nn.Module): ...

    HEADS.find("model_based")

A registry is a dictionary that decorators fill beside the definitions. What is called NAME lies in
the module NAME of the registry's package, so adding one is adding a file, and nothing else is
imported to find it. Names that no module can have, such as "3dpw", are found by importing all.
"""

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from engine.errors import UserError

T = TypeVar("T")


class Registry(dict[str, T]):
    """{name: what was registered under it}.

    Args:
        key: the config key, or the words of the command, that choose one; for messages.
        package: the package whose modules register something, such as "finetune.heads".
    """

    def __init__(self, key: str, package: str) -> None:
        super().__init__()
        self.key, self.package = key, package

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator that puts what it decorates under ``name`` and returns it unchanged.

        Raises:
            ValueError: something else has the name.
        """

        def put(value: T) -> T:
            if self.get(name, value) is not value:
                raise ValueError(f"{self.key}: two are called '{name}'")
            self[name] = value
            return value

        return put

    def find(self, name: str) -> T:
        """What is registered under ``name``, its module imported if need be.

        Raises:
            UserError: nothing is; the message lists the names there are.
        """
        module = f"{self.package}.{name}"
        if name not in self and name.isidentifier() and importlib.util.find_spec(module):
            importlib.import_module(module)
        if name in self:
            return self[name]
        names = self.list_names()  # a module may register names that no module can have
        if name in self:
            return self[name]
        near = difflib.get_close_matches(name, names, 1, 0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise UserError(f"{self.key}={name} is none of {', '.join(names)}{hint}")

    def list_names(self) -> list[str]:
        """All names, in order; imports every module of the package."""
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        return sorted(self)
