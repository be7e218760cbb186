"""Small ONNX models that take images, and their preprocessing as a client would do it in numpy.

Inputs are `image` (or said in the docstring), outputs `y`; the batch is free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]

MEAN, STD, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255


def image_net(
    shape: tuple[int | str | None, ...] = ("batch", 3, 8, 6),
    *,
    opset: int = 17,
    ir_version: int = 9,
    element: int = TensorProto.FLOAT,
    name: str = "image",
) -> ModelProto:
    """`image[batch, 3, 8, 6]` → `y[batch, 3, …]`, each value times its place's own weight: no two pixels are alike."""
    dtype = helper.tensor_dtype_to_np_dtype(element)
    sizes = [size if isinstance(size, int) else 1 for size in shape[1:]]
    weights = np.linspace(0.5, 2, int(np.prod(sizes))).reshape(1, *sizes).astype(dtype)
    constant = numpy_helper.from_array(weights, "weights")
    inputs = [helper.make_tensor_value_info(name, element, shape)]
    if ir_version < 4:  # initialisers were inputs then
        inputs.append(helper.make_tensor_value_info("weights", element, weights.shape))
    graph = helper.make_graph(
        [helper.make_node("Mul", [name, "weights"], ["y"], name="preprocess/Cast")],
        "graph",
        inputs,
        [helper.make_tensor_value_info("y", element, shape)],
        initializer=[constant],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def weights_of(shape: tuple[int, ...] = (3, 8, 6)) -> Array:
    """The weights of `image_net`."""
    return np.linspace(0.5, 2, int(np.prod(shape))).reshape(1, *shape).astype(np.float32)


def normalised(pixels: Array, scale: float = SCALE, mean: Any = MEAN, std: Any = STD) -> Array:
    """What a client does to `uint8[N, H, W, C]` itself: `float32[N, C, H, W]`."""
    values = pixels.astype(np.float32) * np.float32(scale)
    values = (values - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)


def resized(pixels: Array, height: int, width: int, how: str) -> Array:
    """Bring `uint8[N, H, W, C]` to a size, as float64: each place's own arithmetic, written out."""
    rows, columns = pixels.shape[1:3]
    out = np.empty((len(pixels), height, width, pixels.shape[3]))
    for y in range(height):
        for x in range(width):
            if how == "nearest":
                out[:, y, x] = pixels[:, int(y * rows / height), int(x * columns / width)]
                continue
            (top, bottom, down), (left, right, along) = _between(y, rows, height), _between(x, columns, width)
            upper = pixels[:, top, left] * (1 - along) + pixels[:, top, right] * along
            lower = pixels[:, bottom, left] * (1 - along) + pixels[:, bottom, right] * along
            out[:, y, x] = upper * (1 - down) + lower * down
    return out


def _between(place: int, size: int, wanted: int) -> tuple[int, int, float]:
    """Return the neighbours of a place, and how far it lies towards the second; pixels are points in their middles."""
    at = min(max((place + 0.5) * size / wanted - 0.5, 0.0), size - 1.0)
    low = int(at)
    return low, min(low + 1, size - 1), at - low


def pixels(rows: int, height: int = 8, width: int = 6, channels: int = 3) -> Array:
    """Random images, `uint8[rows, height, width, channels]`, the same each time."""
    return np.random.default_rng(rows).integers(0, 256, (rows, height, width, channels), np.uint8)
