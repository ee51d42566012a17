"""NamedWeights: parameters and buffers under their names, without the computation they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import nn


class NamedWeights(nn.Module):
    """Hold parameters under dotted names, as a module whose state dict has these names.

    Args:
        parameters: Parameters by name, in the order of a module; they are held, not copied.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        for name, parameter in parameters.items():
            owner, leaf = self._owner(name)
            owner.register_parameter(leaf, parameter)

    @classmethod
    def copy_of(cls, module: nn.Module) -> Self:
        """Copy the parameters and buffers of a module; those of a sharded one, which has no deepcopy, stay sharded."""
        copies: dict[int, nn.Parameter] = {}
        for value in module.parameters():
            copies[id(value)] = nn.Parameter(value.detach().clone(), value.requires_grad)
        named = module.named_parameters(remove_duplicate=False)
        copy, saved = cls({name: copies[id(value)] for name, value in named}), module.state_dict().keys()
        for name, value in module.named_buffers():
            owner, leaf = copy._owner(name)
            owner.register_buffer(leaf, value.detach().clone(), persistent=name in saved)
        return copy

    def _owner(self, name: str) -> tuple[nn.Module, str]:
        *path, leaf = name.split(".")
        owner: nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]
        return owner, leaf
