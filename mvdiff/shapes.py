"""The one shape checker for public entries."""

from torch import Tensor


def check_shapes(**named: tuple[Tensor, str]) -> dict[str, int]:
    """Check tensors against shape patterns whose letters must agree with each other (own derivation).

    A pattern lists the axes, separated by spaces: a number is that size, any other word is a name that takes the size
    it first meets and must meet it again everywhere, and a leading `...` stands for any axes, checked no further.

    Args:
        **named: Name as the caller's user spells it = (tensor, pattern).

    Returns:
        The size of every named axis.

    Raises:
        ValueError: A tensor does not fit its pattern, or two tensors disagree on a named axis.

    Example:
        >>> import torch
        >>> check_shapes(images=(torch.zeros(2, 8, 3, 4, 6), "B V 3 H W"), K=(torch.zeros(2, 8, 3, 3), "B V 3 3"))
        {'B': 2, 'V': 8, 'H': 4, 'W': 6}
        >>> check_shapes(K=(torch.zeros(8, 3, 4), "V 3 3"))
        Traceback (most recent call last):
        ...
        ValueError: K must have shape [V, 3, 3]; got [8, 3, 4]. Make axis 2 of size 3.
    """
    sizes: dict[str, int] = {}
    owners: dict[str, str] = {}
    for name, (tensor, pattern) in named.items():
        axes = pattern.split()
        shape = tuple(tensor.shape)
        wanted = f"{name} must have shape [{', '.join(axes)}]; got {list(shape)}."
        if axes and axes[0] == "...":
            axes = axes[1:]
            skipped = len(shape) - len(axes)
            if skipped < 0:
                raise ValueError(f"{wanted} Give it at least {len(axes)} axes.")
        elif len(axes) != len(shape):
            raise ValueError(f"{wanted} Give it {len(axes)} axes.")
        else:
            skipped = 0
        for position, axis in enumerate(axes, start=skipped):
            size = shape[position]
            if axis.isdigit():
                if size != int(axis):
                    raise ValueError(f"{wanted} Make axis {position} of size {axis}.")
            elif sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{wanted} Make axis {position} of size {sizes[axis]}: {axis} is {sizes[axis]} in {owners[axis]}."
                )
            else:
                owners.setdefault(axis, name)
    return sizes
