import pytest
import torch

from mvdiff.shapes import check_shapes


def test_binds_letters_across_tensors():
    images, K = torch.zeros(2, 8, 3, 5, 7), torch.zeros(2, 8, 3, 3)
    assert check_shapes(images=(images, "B V 3 H W"), K=(K, "B V 3 3")) == {"B": 2, "V": 8, "H": 5, "W": 7}


def test_leading_dots_take_any_axes():
    assert check_shapes(xy=(torch.zeros(4, 5, 2), "... M 2"), K=(torch.zeros(3, 3), "... 3 3")) == {"M": 5}


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"images": (torch.zeros(2, 8, 4, 6, 6), "B V 3 H W")},
            "images must have shape [B, V, 3, H, W]; got [2, 8, 4, 6, 6]. Axis 2 must have size 3.",
        ),
        (
            {"images": (torch.zeros(8, 3, 6, 6), "B V 3 H W")},
            "images must have shape [B, V, 3, H, W]; got [8, 3, 6, 6]. It needs 5 axes.",
        ),
        (
            {"K": (torch.zeros(8, 3, 3), "V 3 3"), "R": (torch.zeros(7, 3, 3), "V 3 3")},
            "R must have shape [V, 3, 3]; got [7, 3, 3]. Axis 0 must have size 8, since V is 8 in K.",
        ),
        (
            {"xy": (torch.zeros(()), "... 2")},
            "xy must have shape [..., 2]; got []. It needs at least 1 axes.",
        ),
    ],
)
def test_errors_say_what_was_wanted_and_what_came(named, message):
    with pytest.raises(ValueError, match="must have shape") as error:
        check_shapes(**named)
    assert str(error.value) == message
