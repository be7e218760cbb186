"""Metrics that are on no panel and in no rule, and why."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["UNSHOWN"]

UNSHOWN: Mapping[str, str] = {
    "batchserve_gpu_info": "names GPUs for whoever looks at one by hand; has no course over time",
    "batchserve_model_build_seconds": "one number for each build beside the serving, for whoever waits for it",
    "batchserve_model_swaps_total": "grows once after such a build; what runs since is on the panel of providers",
    "batchserve_slot_time_ratio": "1 but for a model on several devices, and hardly changes while it serves",
    "process_virtual_memory_bytes": "address space, which says nothing about memory in use",
    "python_info": "the interpreter's version is on the panel Versions, from batchserve_build_info",
    "python_gc_objects_collected_total": "for a developer; what it costs is on the panel Garbage collector",
    "python_gc_objects_uncollectable_total": "for a developer; grows only by a bug, and then memory does, too",
    "python_gc_collections_total": "for a developer; what they cost is on the panel Garbage collector",
}
