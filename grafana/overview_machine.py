"""The overview's rows about what the service runs on."""

from __future__ import annotations

from grafana.frame import Row
from grafana.overview_scheduler import shares
from grafana.panels import Query, lines
from grafana.queries import MODEL, REPLICA, rate, ratio, spread

__all__ = ["devices", "process"]


def devices() -> Row:
    """Say what the models run on, and how the GPUs are used."""
    joules = rate("batchserve_gpu_energy_joules_total", of=REPLICA)
    completed = rate("batchserve_requests_total", 'outcome="completed"')
    return "Devices", [
        shares(),
        lines(
            "Execution providers",
            "Model versions by the execution provider that they run on, over all replicas. What to do: "
            "`CPUExecutionProvider` on machines with a GPU: install `batchserve[gpu]`, and see the log of the load.",
            [Query(f"count by (provider) (batchserve_model_provider_info{{{MODEL}}})", "{{provider}}")],
            "short",
            width=4,
        ),
        lines(
            "GPU utilisation",
            "Share of time in which a kernel ran: most, middle and least of all GPUs. Empty without "
            "`batchserve[gpu-metrics]` or a GPU. What to do: low while requests wait: runs are too short to fill it; "
            "raise `max_batch_size` or `instances`.",
            [Query(expr, name) for expr, name in spread(f"batchserve_gpu_utilization_ratio{{{REPLICA}}}")],
            "percentunit",
            most=1,
            width=4,
        ),
        lines(
            "GPU memory",
            "Device memory in use, of what there is, on the fullest and the middle GPU. What to do: near 100 %, the "
            "next load or the largest batch will fail; unload a model or lower `max_batch_size`.",
            [
                Query(expr, name)
                for expr, name in spread(
                    f"batchserve_gpu_memory_used_bytes{{{REPLICA}}} / batchserve_gpu_memory_bytes{{{REPLICA}}}"
                )[:2]
            ],
            "percentunit",
            most=1,
            width=4,
        ),
        lines(
            "GPU power",
            "Power drawn by the hungriest, the middle and the least hungry GPU. What to do: at the card's limit it "
            "lowers its clocks and runs take longer: nothing to do but to know it, or to cool better.",
            [Query(expr, name) for expr, name in spread(f"batchserve_gpu_power_watts{{{REPLICA}}}")],
            "watt",
            width=4,
        ),
        lines(
            "Energy by request",
            "Energy of all GPUs by completed request. What to do: if it rises at the same load, batches have become "
            "smaller: look at the row Batching.",
            [Query(f"sum({joules}) / (sum({completed}) > 0)", "per request")],
            "joule",
            width=4,
        ),
    ]


def process() -> Row:
    """Say how the server processes are."""
    cpu = rate("process_cpu_seconds_total", of=REPLICA)
    lag = f"batchserve_event_loop_lag_seconds_bucket{{{REPLICA}}}[$__rate_interval]"
    pauses = rate("batchserve_gc_pause_seconds_total", of=REPLICA)
    return "Process", [
        lines(
            "Processor",
            "Cores used by the busiest, the middle and the least busy replica, runs of models included. What to do: at "
            "the number of cores the machine is full; one replica far above the others: look at the load balancer.",
            [Query(expr, name) for expr, name in spread(cpu)],
            "short",
        ),
        lines(
            "Memory",
            "Memory in use by the largest, the middle and the smallest replica. What to do: if it grows without end, "
            "look at the bodies held (next row of panels) and at the models loaded, and report it.",
            [Query(expr, name) for expr, name in spread(f"process_resident_memory_bytes{{{REPLICA}}}")],
            "bytes",
        ),
        lines(
            "Lag of the event loop",
            "How late timers fire: 99th percentile of all replicas, and the worst stall of the last minutes on any. "
            "What to do: above some milliseconds, every answer waits as long: look for large JSON bodies, too few "
            "cores, or runs done in place; if the garbage collector's worst pause is as long, report it.",
            [
                Query(f"max(batchserve_event_loop_lag_max_seconds{{{REPLICA}}})", "worst"),
                Query(f"histogram_quantile(0.99, sum by (le) (rate({lag})))", "p99"),
                Query(f"max(batchserve_gc_pause_max_seconds{{{REPLICA}}})", "garbage collector, worst", is_dashed=True),
            ],
            "s",
        ),
        lines(
            "Garbage collector",
            "Share of time for which it held the server up, on the worst replica, by the oldest generation that it "
            "looked at. What to do: above 1 %, report it, with the lag of the event loop.",
            [Query(f"max by (generation) ({pauses})", "generation {{generation}}")],
            "percentunit",
        ),
        lines(
            "HTTP answers",
            "Answers per second of all routes, by class. What to do: `5xx`: the log has each; `4xx`: clients' mistakes "
            "and refusals, which the row Pressure tells apart.",
            [
                Query(
                    f"sum by (status) ({rate('batchserve_http_responses_total', of=REPLICA)})",
                    "{{status}}",
                )
            ],
            "reqps",
            is_stacked=True,
        ),
        lines(
            "Connections",
            "Connections open on all replicas, and new ones per second. What to do: if new ones come as often as "
            "requests, clients do not keep connections open, which costs both sides.",
            [
                Query(f"sum(batchserve_http_connections{{{REPLICA}}})", "open"),
                Query(
                    f"sum({rate('batchserve_http_connections_opened_total', of=REPLICA)})", "new per second", unit="cps"
                ),
            ],
            "short",
        ),
        lines(
            "Bodies",
            "Bytes per second of request bodies, and the bytes held now. What to do: near what the network carries, "
            "send binary tensors, or let the model take `uint8`.",
            [
                Query(
                    f"sum({rate('batchserve_http_body_bytes_total', of=REPLICA)})", "received per second", unit="Bps"
                ),
                Query(f"sum(batchserve_http_inflight_bytes{{{REPLICA}}})", "held"),
            ],
            "bytes",
        ),
        lines(
            "Body buffers",
            "Buffers in use, kept for the next request, and the most that were ever held, on the largest replica. What "
            "to do: in use above 0 with no requests is a leak: report it.",
            [
                Query(f"max(batchserve_buffer_used_bytes{{{REPLICA}}})", "in use"),
                Query(f"max(batchserve_buffer_idle_bytes{{{REPLICA}}})", "kept"),
                Query(f"max(batchserve_buffer_high_bytes{{{REPLICA}}})", "most ever", is_dashed=True),
            ],
            "bytes",
        ),
        lines(
            "Buffers that were there",
            "Share of body buffers lent that were kept from an earlier request; empty if no body needs one. What to "
            "do: mostly new ones: sizes vary a lot, or more is in use at once than is kept; no action unless the "
            "processor is short.",
            [
                Query(
                    ratio(
                        rate("batchserve_buffers_lent_total", 'source="pool"', of=REPLICA),
                        rate("batchserve_buffers_lent_total", of=REPLICA),
                        "",
                    ),
                    "kept",
                )
            ],
            "percentunit",
            most=1,
        ),
        lines(
            "Time since start",
            "Of the replica that started last and the one in the middle. What to do: if it falls to 0 and nobody "
            "restarted it, the process was killed: look at the memory and at the machine's log.",
            [
                Query(f"min(time() - process_start_time_seconds{{{REPLICA}}})", "youngest"),
                Query(f"quantile(0.5, time() - process_start_time_seconds{{{REPLICA}}})", "middle"),
            ],
            "s",
            width=12,
        ),
        lines(
            "Versions",
            "Replicas by the versions they run. What to do: more than one line for long: a rollout is not finished.",
            [
                Query(
                    f"count by (version, python, onnxruntime) (batchserve_build_info{{{REPLICA}}})",
                    "batchserve {{version}}, Python {{python}}, ONNX Runtime {{onnxruntime}}",
                )
            ],
            "short",
            width=12,
        ),
    ]
