"""Upstream's attention, written from its description alone: float64, one token and one key at a time, no code shared.

It takes cameras, feature maps and a block's weights, never the prepared taps, and is the oracle of their tests.
"""

import math

import torch
import torch.nn.functional as F


def ring_attention(block, hidden, K, R, size):
    """`block` on feature maps [V, C, h, w] of views in a ring, images of size (height, width)."""
    V, _, h, w = hidden.shape
    scale = size[1] // w
    K, R = K.double(), R.double()
    output = torch.zeros_like(hidden)
    for view in range(V):
        for row in range(h):
            for column in range(w):
                pixel = [scale // 2 + scale * column, scale // 2 + scale * row]
                keys = []
                for other in ((view - 1) % V, (view + 1) % V):
                    x, y = mapped(K, R, view, other, pixel)
                    for dx in (-1, 0, 1):
                        for dy in (-1, 0, 1):
                            cell = x / scale - 0.5 + dx, y / scale - 0.5 + dy
                            place = (cell[0] + 0.5) * scale, (cell[1] + 0.5) * scale
                            valid = 0 < place[0] < size[1] and 0 < place[1] < size[0]
                            back = mapped(K, R, other, view, place)
                            displacement = [(b - p) / scale for b, p in zip(back, pixel, strict=True)]
                            value = zero_padded(hidden[other], *cell) + encoding(displacement, block.freq_bands)
                            keys.append(value * valid)
                own = hidden[view, :, row, column]
                query = own + encoding([0.0, 0.0], block.freq_bands)
                output[view, :, row, column] = token(block, own, query, keys)
    return output


def depth_attention(block, hidden, K, R, t, depths, neighbours):
    """`block` (without what follows the attention) on maps [V, C, h, w] of views with depth; lists of neighbours."""
    V, _, h, w = hidden.shape
    H, W = depths.shape[1:]
    scale = W // w
    stored = depths  # float32: differences of z are taken in it
    K, R, t, depths = K.double(), R.double(), t.double(), depths.double()
    output = torch.zeros_like(hidden)
    for view in range(V):
        flat = []  # (token, key): the value's cell, whether it is valid, the difference of z, the neighbour
        for row in range(h):
            for column in range(w):
                x, y = scale // 2 + scale * column, scale // 2 + scale * row
                z = depths[view, y, x]
                point = R[view] @ (torch.linalg.inv(K[view]) @ torch.tensor([x, y, 1.0]).double() * z) + t[view]
                for other in neighbours[view]:
                    seen = K[other] @ (R[other].T @ (point - t[other]))
                    place = (seen[:2] / (seen[2] + 1e-6)).tolist()
                    column_there, row_there = (round(p) for p in place)  # Python rounds half to even
                    inside = 0 <= column_there < W and 0 <= row_there < H
                    there = stored[other, min(max(row_there, 0), H - 1), min(max(column_there, 0), W - 1)]
                    valid = bool(inside and there > 0 and z > 0)
                    difference = abs(float(stored[view, y, x] - (there if valid else 1_000_000)))
                    flat.append(([p / scale - 0.5 for p in place], valid, difference, other))
        encodings = []
        for first, second in zip(flat[::2], flat[1::2], strict=True):
            both = [first[2], second[2]]
            encodings.append(torch.tensor([math.sin(d * f) for d in both for f in block.freq_bands.tolist()]).double())
            encodings.append(torch.tensor([math.cos(d * f) for d in both for f in block.freq_bands.tolist()]).double())
        count = len(neighbours[view])
        for index in range(h * w):
            keys = [
                (zero_padded(hidden[other], *cell) + code if valid else torch.zeros_like(code))
                for (cell, valid, _, other), code in zip(
                    flat[index * count : (index + 1) * count],
                    encodings[index * count : (index + 1) * count],
                    strict=True,
                )
            ]
            own = hidden[view, :, index // w, index % w]
            output[view, :, index // w, index % w] = token(block, own, own, keys)
    return output


def mapped(K, R, source, target, pixel):
    point = torch.tensor([*pixel, 1.0], dtype=torch.float64)
    x, y, z = (K[target] @ R[target].T @ R[source] @ torch.linalg.inv(K[source]) @ point).tolist()
    return x / z, y / z


def zero_padded(feature_map, x, y):
    """Interpolate [C, h, w] at a cell coordinate; what is beyond the outermost cells is zero."""
    _, h, w = feature_map.shape
    total = torch.zeros_like(feature_map[:, 0, 0])
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < h and 0 <= column < w:
                total = total + (1 - abs(x - column)) * (1 - abs(y - row)) * feature_map[:, row, column]
    return total


def encoding(displacement, bands):
    """[sin x | sin y | cos x | cos y]."""
    angles = [d * f for d in displacement for f in bands.tolist()]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def layer_norm(norm, x):
    mean = x.mean()
    return (x - mean) / ((x - mean).square().mean() + 1e-5).sqrt() * norm.weight + norm.bias


def token(block, own, query, keys):
    """One token: attention in heads of 32 over all keys, then the feed-forward."""
    q = block.to_q.weight @ layer_norm(block.norm1, query)
    keys = [layer_norm(block.norm1, key) for key in keys]
    k = torch.stack([block.to_k.weight @ key for key in keys])
    v = torch.stack([block.to_v.weight @ key for key in keys])
    heads = []
    for start in range(0, len(q), 32):
        part = slice(start, start + 32)
        heads.append(torch.softmax(k[:, part] @ q[part] * 32**-0.5, dim=0) @ v[:, part])
    hidden = own + block.to_out.weight @ torch.cat(heads) + block.to_out.bias
    projected = block.ff.net[0].proj.weight @ layer_norm(block.norm2, hidden) + block.ff.net[0].proj.bias
    value, gate = projected.chunk(2)
    exact = value * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    return hidden + block.ff.net[2].weight @ exact + block.ff.net[2].bias


def reference_residual(residual, hidden):
    """GroupNorm of 32 groups, ReLU, convolution, twice, on [V, C, h, w]; the input is added."""
    update = hidden
    for norm, conv in ((residual.norm1, residual.conv1), (residual.norm2, residual.conv2)):
        update = F.conv2d(F.relu(F.group_norm(update, 32, norm.weight, norm.bias, 1e-5)), conv.weight, padding=1)
    return hidden + update
