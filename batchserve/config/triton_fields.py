"""The fields and words of Triton's ModelConfig, as far as a `config.pbtxt` is looked into.

Source: triton-inference-server/common, `protobuf/model_config.proto` (July 2026).
"""

from __future__ import annotations

from collections.abc import Mapping

from batchserve.config.pbtxt import Scalar, Word

__all__ = ["DATA_TYPES", "KNOWN_FIELDS", "LISTS", "NOT_SET"]

KNOWN_FIELDS: Mapping[str, frozenset[str]] = {
    message: frozenset(names.split())
    for message, names in {
        "ModelConfig": """
            name platform backend runtime version_policy max_batch_size input output batch_input batch_output
            optimization dynamic_batching sequence_batching ensemble_scheduling instance_group default_model_filename
            cc_model_filenames metric_tags parameters model_warmup model_operations model_transaction_policy
            model_repository_agents response_cache model_metrics
        """,
        "ModelInput": """
            name data_type format dims reshape is_shape_tensor allow_ragged_batch optional is_non_linear_format_io
        """,
        "ModelOutput": "name data_type dims reshape label_filename is_shape_tensor is_non_linear_format_io",
        "ModelDynamicBatching": """
            preferred_batch_size max_queue_delay_microseconds preserve_ordering priority_levels default_priority_level
            default_queue_policy priority_queue_policy
        """,
        "ModelQueuePolicy": "timeout_action default_timeout_microseconds allow_timeout_override max_queue_size",
        "ModelInstanceGroup": "name kind count rate_limiter gpus secondary_devices profile passive host_policy",
        "ModelVersionPolicy": "latest all specific",
        "Latest": "num_versions",
        "All": "",
        "Specific": "versions",
    }.items()
}
"""Every field that Triton knows, by message; only of messages that we look into."""

DATA_TYPES = tuple(
    f"TYPE_{name}"
    for name in (
        *("INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "STRING", "BF16"),
    )
)
"""In the order of their enum numbers, which may stand for them."""

NOT_SET: tuple[Scalar, ...] = (
    *(0, "", Word("false"), Word("KIND_AUTO"), Word("FORMAT_NONE"), Word("TYPE_INVALID"), Word("REJECT")),
)
"""What a field that was left out is read as; an enum's first word is its zero."""

LISTS = frozenset({"gpus", "profile"})
"""Repeated plain fields we do not use: a zero in a list is a value."""
