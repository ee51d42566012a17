"""The adapter's geometry: built by the attention's class, kept where other batches can use it."""

import dataclasses

import torch
from accelerate import cpu_offload

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.attention import MultiViewGeometry
from tests.geometries import camera_geometry, depth_geometry
from tests.models.test_depth_geometry import HEIGHT, WIDTH, wall


def adapter(**arguments):
    return MultiViewAdapter([32, 64], 64, [64, 32], {"init_args": arguments})


def ring(fov=90.0, batch=1, views=8, height=20, width=28):
    K, R = RingRig(num_views=views, fov_deg=fov, height=height, width=width).cameras()
    return MultiViewBatch.from_cameras(K.expand(batch, -1, 3, 3), R.expand(batch, -1, 3, 3), height, width)


def same(one, other):
    names = ("cells", "weights", "views", "visible", "displacement")
    levels = zip(one.levels, other.levels, strict=True)
    return all(torch.equal(getattr(a, name), getattr(b, name)) for a, b in levels for name in names)


def walls(*, views=3):
    K, R, t, depths = wall(views)
    return MultiViewBatch.from_cameras(K, R, HEIGHT, WIDTH, t, depths)


def test_it_is_what_the_class_builds_with_the_adapters_settings():
    batch = ring(batch=2)
    found = adapter(kernel_size=1, min_overlap=0.3).geometry(batch, 4)
    assert same(found, camera_geometry(batch.K[0], batch.R[0], 5, 7, 4, 2, kernel_size=1, min_overlap=0.3))
    assert [(level.height, level.width) for level in found.levels] == [(5, 7), (3, 4)]
    batch = walls()
    found = adapter(min_overlap=0.2).geometry(batch, 4)
    assert same(found, depth_geometry(batch.K, batch.R, batch.t, batch.depths, 4, 2, min_overlap=0.2))


def test_single_views_have_none():
    assert adapter().geometry(ring(views=1), 4) is None


def test_cameras_are_built_once_and_depths_each_time():
    one, batch = adapter(), ring()
    first = one.geometry(batch, 4)
    assert one.geometry(ring(batch=3), 4) is first
    assert one.geometry(ring(fov=80.0), 4) is not first
    assert one.geometry(batch, 2) is not first
    assert one.geometry(batch, 4) is first
    depths = walls()
    assert one.geometry(depths, 4) is not one.geometry(depths, 4)
    assert not same(one.geometry(depths, 4), one.geometry(dataclasses.replace(depths, depths=None), 4))


def test_what_was_used_longest_ago_goes_first_and_encodings_count():
    one, (a, b, c) = adapter(), (ring(fov) for fov in (80.0, 90.0, 100.0))
    first, second = one.geometry(a, 4), one.geometry(b, 4)
    one.geometry_cache_bytes = first.nbytes + second.nbytes
    assert one.geometry(a, 4) is first
    bare = first.nbytes
    first.levels[0].encoding(32, (0.5, 16.0), torch.float32)
    assert first.nbytes == bare + first.levels[0].displacement[..., 0].numel() * 32 * 4
    assert one.geometry(a, 4) is first  # and b had to go
    assert one.geometry(b, 4) is not second
    one.geometry_cache_bytes = 1
    third = one.geometry(c, 4)
    assert one.geometry(c, 4) is third  # the last one stays, whatever its size
    one.geometry_cache_bytes = 0
    assert one.geometry(c, 4) is not one.geometry(c, 4)  # nothing is kept


def test_taps_that_are_no_dataclass_count_too():
    class Taps:
        def __init__(self):
            self.cells, self.more = torch.zeros(3), {"weights": [torch.zeros(5)]}

    assert MultiViewGeometry((Taps(),)).nbytes == 8 * 4


def test_what_inference_mode_built_serves_training():
    one = adapter()
    with torch.inference_mode():
        geometry = one.geometry(ring(), 4)
        geometry.levels[0].encoding(32, (0.5, 16.0), torch.float32)
    hidden = torch.randn(1, 8, 32, 5, 7, requires_grad=True)
    torch.nn.init.normal_(one.down_blocks[0].to_out.weight)
    one.down_blocks[0](hidden, one.geometry(ring(), 4).levels[0]).square().sum().backward()
    assert one.down_blocks[0].to_out.weight.grad.abs().max() > 0


def test_autocast_changes_nothing():
    expected = adapter().geometry(ring(), 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(adapter().geometry(ring(), 4), expected)


def test_under_offload_it_is_where_the_adapter_runs():
    one = adapter()
    cpu_offload(one, torch.device("cpu"))
    geometry = one.geometry(ring(), 4)
    assert geometry.levels[0].cells.device.type == "cpu"
    assert same(geometry, adapter().geometry(ring(), 4))
    geometry.levels[0].encoding(32, (0.5, 16.0), torch.float32)
    assert one.geometry(ring(), 4).nbytes < geometry.nbytes  # encodings do not stay where memory is short
