"""What the workers and the readers of pairs count, and how Prometheus reads it (`serving.compute.statistics`)."""

from __future__ import annotations

from serving.compute.statistics import Counted

LATENCY_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
AGE_SECONDS = (1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 259_200.0, 604_800.0)

WORKER = Counted(
    prefix="usermodel_solaris",
    counters={
        "taken": "Pairs taken off the queue",
        "taken_over": "Pairs that came back from workers that did not get them done",
        "set_aside": "Pairs that were given out too often",
        "computed": "Pairs that the foundation model represented",
        "written": "Representations that the store keeps",
        "dropped": "Representations that stood below all that the store keeps of the user",
        "refused": "Pairs that could not be computed, by reason: no_features, unreadable, no_item, not_finite, future",
        "failed": "Pairs that the foundation model failed at, left for another try",
        "done": "Pairs that are off the queue, computed or refused",
        "batches": "Batches that were written",
        "store_errors": "Calls of the store that failed and were repeated",
        "busy_seconds": "Seconds that the foundation model was computing",
    },
    gauges={
        "queue_length": "Pairs that wait",
        "leased": "Pairs that workers are at",
        "aside": "Pairs that are set aside",
        "up": "1 while the worker works",
    },
    histogram="batch_seconds",
    histogram_meaning="From a batch's being taken to its representations in the store",
    bounds=LATENCY_SECONDS,
)
READER = Counted(
    prefix="usermodel_pairs",
    counters={
        "requests": "Reads, by what became of them: found, cold, damaged, late, unavailable",
        "served": "Pairs served, by level: exact, user, neighbours, zero",
        "enqueued": "Pairs handed on, by outcome: queued, coalesced, shed, no_features, outranked, dropped, failed",
        "refreshes": "Exact pairs that were handed on because they were nearing the end of their time",
        "logged": "Reads whose levels were logged, by outcome: written, dropped",
        "store_errors": "Calls in the background that failed",
    },
    gauges={
        "breaker_open": "1 while the store is not asked because it failed",
        "buffered": "Pairs that are not handed to the store yet",
        "known_neighbours": "Items whose neighbours' mean is known",
    },
    histogram="age_seconds",
    histogram_meaning="How long ago the exact pairs that were served were written",
    bounds=AGE_SECONDS,
)
