"""Write a generator as an ONNX file, for programs that run networks without PyTorch: darktable, browsers, onnxruntime.

The graph takes `image` (B, 3, H, W) float32 in [0, 1] and `mask` (B, 1, H, W) float32 (above 0.5 = hole), and gives
`prediction` (B, 3, H, W) in [0, 1]. It blacks out the hole itself and does not composite. B, H and W are free; H and W
are multiples of 8, from 16 up. The weights are folded (`fold_batchnorm`) and in float32.

ONNX's own DFT operator is missing from most runtimes, so the transform is products with matrices, as in `dft`. The
matrices are made by the graph from the size of the feature map: one file serves every size. They are orthonormal here,
since float32 holds the constant term. Needs the package onnx.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from imaging.atomic_write import part_file
from lama.fold_batchnorm import Convolution, FFCLayer, FoldedNetwork, fold_generator
from lama.generator import SIZE_MULTIPLE_PX, SMALLEST_SIZE_PX, Generator

OPSET = 17  # of 2022: onnxruntime from 1.12 up, onnxruntime-web and OpenCV read it
IR_VERSION = 8  # the file format that goes with it
ENDS_BORDER_PX = 3  # mirrored around the 7x7 convolutions at both ends


def export_onnx(generator: Generator, path: str | Path, *, name: str = "") -> None:
    """Write `generator` as an ONNX file.

    Args:
        generator: The network; not modified.
        path: The file to write; an existing one is replaced. It appears complete or not at all.
        name: What the weights are called, for the file's metadata.

    Raises:
        OSError: The file can't be written.
    """
    model = build_model(fold_generator(generator), name=name)
    with part_file(Path(path)) as part:
        part.write_bytes(model.SerializeToString())


def build_model(network: FoldedNetwork, *, name: str = "") -> onnx.ModelProto:
    """Return the ONNX model of a folded network, checked by ONNX's own checker.

    Args:
        network: The folded weights.
        name: What the weights are called, for the metadata.

    Returns:
        The model, weights included.
    """
    graph = _Graph()
    _write_network(graph, network)
    sides = ("height", "width")
    proto = helper.make_graph(
        graph.nodes,
        "lama",
        [
            helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, *sides]),
            helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 1, *sides]),
        ],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["batch", 3, *sides])],
        initializer=graph.constants,
    )
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="fftlama", ir_version=IR_VERSION
    )
    helper.set_model_props(
        model,
        {
            "weights": name,
            "image": "(B, 3, H, W) float32 RGB in [0, 1]",
            "mask": "(B, 1, H, W) float32, above 0.5 = hole",
            "prediction": "(B, 3, H, W) float32 RGB in [0, 1]; use it inside the hole",
            "sides": f"multiples of {SIZE_MULTIPLE_PX} px, from {SMALLEST_SIZE_PX} up",
        },
    )
    onnx.checker.check_model(model)
    return model


class _Graph:
    """The nodes and constants of a graph under construction. A value is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._small: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def op(self, kind: str, *inputs: str, result: str = "", **attributes: Any) -> str:
        """Add an operator with one result, called `result` if that is given, and return the result's name."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result or name], name=name, **attributes))
        return result or name

    def halves(self, x: str, *, axis: int) -> tuple[str, str]:
        """Return the names of the two halves of `x` along an axis whose length is even."""
        name = f"Split_{len(self.nodes)}"
        parts = (f"{name}_first", f"{name}_second")
        self.nodes.append(helper.make_node("Split", [x], list(parts), name=name, axis=axis))
        return parts

    def weights(self, tensor: torch.Tensor) -> str:
        """Add float32 weights and return their name."""
        return self._constant(tensor.detach().to("cpu", torch.float32).contiguous().numpy())

    def integers(self, *values: int) -> str:
        """Return the name of a list of int64, added once."""
        return self._shared(np.array(values, dtype=np.int64))

    def number(self, value: float | int) -> str:
        """Return the name of a single int64 or float32, added once."""
        return self._shared(np.array(value, dtype=np.int64 if isinstance(value, int) else np.float32))

    def _shared(self, values: np.ndarray) -> str:
        key = (str(values.dtype), values.tobytes(), values.shape)
        if key not in self._small:
            self._small[key] = self._constant(values)
        return self._small[key]

    def _constant(self, values: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name


class _Transform:
    """The transform's four matrices for a feature map (H, W), K = W // 2 + 1; by name, float32, orthonormal.

    row (W, 2K): cos, -sin; column (2H, 2H): from (part, row) to (part, frequency); column_inverse back;
    row_inverse (2K, W). `frequencies` is K as a list of one.
    """

    def __init__(self, graph: _Graph, features: str) -> None:
        shape = graph.op("Shape", features)
        height, width = (graph.op("Gather", shape, graph.number(axis)) for axis in (2, 3))
        half = graph.op("Add", graph.op("Div", width, graph.number(2)), graph.number(1))
        self.frequencies = graph.op("Unsqueeze", half, graph.integers(0))
        pixels, rows, frequencies = (_count(graph, length) for length in (width, height, half))

        cosine, sine = _waves(graph, pixels, frequencies, width)  # (W, K)
        self.row = graph.op("Concat", cosine, graph.op("Neg", sine), axis=1)
        # The missing half of the spectrum mirrors the kept one: a column counts twice but for the constant and Nyquist,
        # whose imaginary parts, which the convolution has made, do not count at all.
        mirrored = graph.op("Mod", graph.op("Mul", frequencies, graph.number(2)), width)
        alone = graph.op("Equal", mirrored, graph.number(0))
        real_share, imaginary_share = (
            graph.op("Unsqueeze", graph.op("Where", alone, graph.number(single), graph.number(2.0)), graph.integers(1))
            for single in (1.0, 0.0)
        )
        back = [graph.op("Transpose", wave, perm=[1, 0]) for wave in (cosine, sine)]  # (K, W)
        self.row_inverse = graph.op(
            "Concat",
            graph.op("Mul", back[0], real_share),
            graph.op("Neg", graph.op("Mul", back[1], imaginary_share)),
            axis=0,
        )

        # (c - i s)(re + i im) = (c re + s im) + i (c im - s re); the inverse has + i s.
        cosine, sine = _waves(graph, rows, rows, height)  # (H, H)
        minus = graph.op("Neg", sine)
        self.column, self.column_inverse = (
            graph.op(
                "Concat",
                graph.op("Concat", cosine, right, axis=1),
                graph.op("Concat", left, cosine, axis=1),
                axis=0,
            )
            for right, left in ((sine, minus), (minus, sine))
        )


def _count(graph: _Graph, length: str) -> str:
    """0, 1, … up to `length`, int64."""
    return graph.op("Range", graph.number(0), length, graph.number(1))


def _waves(graph: _Graph, rows: str, columns: str, period: str) -> tuple[str, str]:
    """Cosine and sine of 2 pi r c / n, over sqrt(n), for every pair of `rows` and `columns`."""
    product = graph.op(
        "Mul", graph.op("Unsqueeze", rows, graph.integers(1)), graph.op("Unsqueeze", columns, graph.integers(0))
    )
    # Reduced in integers: at 4096 px an angle would reach 10^4, of which float32 keeps three decimals.
    reduced, length = (
        graph.op("Cast", number, to=TensorProto.FLOAT) for number in (graph.op("Mod", product, period), period)
    )
    angle = graph.op("Mul", reduced, graph.op("Div", graph.number(2 * np.pi), length))
    gain = graph.op("Sqrt", length)
    cosine, sine = (graph.op("Div", graph.op(kind, angle), gain) for kind in ("Cos", "Sin"))
    return cosine, sine


def _write_network(graph: _Graph, network: FoldedNetwork) -> None:
    """Add the whole network to the graph, from `image` and `mask` to `prediction`."""
    hole = graph.op("Cast", graph.op("Greater", "mask", graph.number(0.5)), to=TensorProto.FLOAT)
    known = graph.op("Mul", "image", graph.op("Sub", graph.number(1.0), hole))
    x = graph.op("Concat", known, hole, axis=1)
    x = graph.op("Relu", _convolve(graph, _reflect(graph, x, ENDS_BORDER_PX), network.stem))
    for down in network.downs:
        x = graph.op("Relu", _convolve(graph, _reflect(graph, x, 1), down, stride=2))

    transform = _Transform(graph, x)
    for first, second in zip(network.layers[::2], network.layers[1::2], strict=True):
        x = graph.op("Add", x, _write_layer(graph, _write_layer(graph, x, first, transform), second, transform))

    for up in network.ups:
        x = graph.op(
            "ConvTranspose",
            x,
            graph.weights(up.weight),
            graph.weights(up.bias),
            kernel_shape=list(up.weight.shape[2:]),
            strides=[2, 2],
            pads=[1, 1, 1, 1],
            output_padding=[1, 1],
        )
        x = graph.op("Relu", x)
    x = _convolve(graph, _reflect(graph, x, ENDS_BORDER_PX), network.head)
    graph.op("Sigmoid", x, result="prediction")


def _write_layer(graph: _Graph, x: str, layer: FFCLayer, transform: _Transform) -> str:
    """Add one FFC layer: (B, D, H, W) -> (B, D, H, W), local channels first."""
    local_channels, all_channels = layer.local.bias.numel(), layer.local.weight.shape[1]
    channel_axis = graph.integers(1)
    border = _reflect(graph, x, 1)
    local_part = graph.op("Slice", border, graph.integers(0), graph.integers(local_channels), channel_axis)
    global_part = graph.op("Slice", x, graph.integers(local_channels), graph.integers(all_channels), channel_axis)
    y_local = graph.op("Relu", _convolve(graph, border, layer.local))
    spectral = graph.op("Conv", _write_spectral_path(graph, global_part, layer, transform), graph.weights(layer.leave))
    y_global = graph.op("Relu", graph.op("Add", _convolve(graph, local_part, layer.cross), spectral))
    return graph.op("Concat", y_local, y_global, axis=1)


def _write_spectral_path(graph: _Graph, x: str, layer: FFCLayer, transform: _Transform) -> str:
    """Add the 1x1 before the transform plus its Fourier unit: (B, G, H, W) -> (B, C, H, W)."""
    channels = layer.leave.shape[1]
    # From all real parts, then all imaginary ones, to parts that are neighbours: then a reshape alone goes between
    # (B, C, 2H, K), parts above each other, and (B, 2C, H, K), parts as channels.
    neighbours = torch.arange(2 * channels).view(2, channels).t().reshape(-1)
    spectrum = Convolution(layer.spectrum.weight[neighbours][:, neighbours], layer.spectrum.bias[neighbours])

    t = graph.op("Relu", _convolve(graph, x, layer.enter))
    y = graph.op("MatMul", t, transform.row)  # (B, C, H, 2K)
    y = graph.op("Concat", *graph.halves(y, axis=3), axis=2)  # (B, C, 2H, K)
    y = graph.op("MatMul", transform.column, y)
    # 0 = as it is, -1 = the rest
    as_channels = graph.op("Concat", graph.integers(0, 2 * channels, -1), transform.frequencies, axis=0)
    z = graph.op("Relu", _convolve(graph, graph.op("Reshape", y, as_channels), spectrum))  # (B, 2C, H, K)
    as_rows = graph.op("Concat", graph.integers(0, channels, -1), transform.frequencies, axis=0)
    y = graph.op("MatMul", transform.column_inverse, graph.op("Reshape", z, as_rows))  # (B, C, 2H, K)
    y = graph.op("Concat", *graph.halves(y, axis=2), axis=3)  # (B, C, H, 2K)
    return graph.op("Add", t, graph.op("MatMul", y, transform.row_inverse))


def _convolve(graph: _Graph, x: str, convolution: Convolution, *, stride: int = 1) -> str:
    """Add a convolution without padding."""
    weight = convolution.weight
    return graph.op(
        "Conv",
        x,
        graph.weights(weight),
        graph.weights(convolution.bias),
        kernel_shape=list(weight.shape[2:]),
        strides=[stride, stride],
    )


def _reflect(graph: _Graph, x: str, border_px: int) -> str:
    """Add a border mirrored without repeating the edge."""
    pads = graph.integers(0, 0, border_px, border_px, 0, 0, border_px, border_px)
    return graph.op("Pad", x, pads, mode="reflect")
