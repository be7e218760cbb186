"""The effective configuration: typed, validated once, trusted by everything after."""

from __future__ import annotations

from batchserve.config.list_kinds import show_cores
from batchserve.config.pad import PadConfig, show_padding
from batchserve.config.preprocess import PreprocessConfig, show_preprocessing
from batchserve.config.schema import MODEL_KEYS, SERVER_KEYS, DeclaredTensor, Key, ModelConfig, ServerConfig
from batchserve.config.settings import ModelSettings, Settings

__all__ = [
    "MODEL_KEYS",
    "SERVER_KEYS",
    "DeclaredTensor",
    "Key",
    "ModelConfig",
    "ModelSettings",
    "PadConfig",
    "PreprocessConfig",
    "ServerConfig",
    "Settings",
    "show_cores",
    "show_padding",
    "show_preprocessing",
]
