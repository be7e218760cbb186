"""Servers of other projects, each with the same ONNX model, to be run by a Python that has them installed."""
