"""Triton's own ModelConfig message, from tritonclient's generated module, to compare our reader with.

The descriptor goes into a private pool: messages of package `inference` may be registered only once in the default one.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["model_config_class"]


@cache
def model_config_class() -> Any:
    """Make the class of `inference.ModelConfig` without importing tritonclient's gRPC package."""
    package = importlib.util.find_spec("tritonclient")
    assert package is not None
    assert package.origin is not None
    tree = ast.parse((Path(package.origin).parent / "grpc" / "model_config_pb2.py").read_text())
    (serialised,) = (
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "AddSerializedFile"
        and isinstance(call.args[0], ast.Constant)
    )
    pool = descriptor_pool.DescriptorPool()
    assert isinstance(serialised, bytes)
    pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialised))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))
