"""Shape checks for the arguments of public functions."""

from torch import Tensor


def check_shapes(**named: tuple[Tensor, str]) -> dict[str, int]:
    """Check tensors against shape patterns and check that named axes agree across tensors (own derivation).

    A pattern lists axes separated by spaces. A number is an exact size. A name is bound to the first size it matches
    and must match that size everywhere else. A leading `...` matches any number of axes of any size.

    Args:
        **named: (tensor, pattern) by the name that errors use for the tensor.

    Returns:
        Sizes of the named axes.

    Raises:
        ValueError: A tensor does not fit its pattern, or two tensors disagree on a named axis.

    Example:
        >>> import torch
        >>> check_shapes(images=(torch.zeros(2, 8, 3, 4, 6), "B V 3 H W"), K=(torch.zeros(2, 8, 3, 3), "B V 3 3"))
        {'B': 2, 'V': 8, 'H': 4, 'W': 6}
        >>> check_shapes(K=(torch.zeros(8, 3, 4), "V 3 3"))
        Traceback (most recent call last):
        ...
        ValueError: K must have shape [V, 3, 3]; got [8, 3, 4]. Axis 2 must have size 3.
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
                raise ValueError(f"{wanted} It needs at least {len(axes)} axes.")
        elif len(axes) != len(shape):
            raise ValueError(f"{wanted} It needs {len(axes)} axes.")
        else:
            skipped = 0
        for position, axis in enumerate(axes, start=skipped):
            size = shape[position]
            if axis.isdigit():
                if size != int(axis):
                    raise ValueError(f"{wanted} Axis {position} must have size {axis}.")
            elif sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{wanted} Axis {position} must have size {sizes[axis]}, since {axis} is {sizes[axis]} in "
                    f"{owners[axis]}."
                )
            else:
                owners.setdefault(axis, name)
    return sizes
