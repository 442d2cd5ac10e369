"""Every metric of the daily loop. They are gauges: what is so now, as registry, lake and alert book say."""

from __future__ import annotations

from serving.metrics import Metric


def _gauge(name: str, meaning: str, *labels: str) -> Metric:
    return Metric(name=f"usermodel_loop_{name}", kind="gauge", meaning=meaning, labels=labels)


UP = _gauge(
    "up",
    "1 where the last collection read this source (registry, lake, alerts, checkpoints, airflow), 0 where it failed.",
    "source",
)
COLLECTED = _gauge("collected_timestamp_seconds", "When the facts on this page were collected.")
COLLECTION = _gauge("collection_seconds", "How long that took.")
VERSIONS = _gauge(
    "versions", "Versions of the model, by decision: pending, promoted, held, rejected.", "model", "decision"
)
DAY = _gauge(
    "day_timestamp_seconds",
    "Start of the newest day of data, UTC, that was registered, promoted, held or rejected, or that is the champion's.",
    "model", "state",
)  # fmt: skip
NEWEST = _gauge(
    "newest_decision", "1 at what was decided of the newest day's version, 0 at the others.", "model", "decision"
)
CHAMPION = _gauge("champion_version", "The version that serves.", "model")
DAYS_BEHIND = _gauge("days_behind", "Days between the day that was due and the newest promoted one; 0: fresh.", "model")
NE = _gauge(
    "ne", "Normalized entropy of the newest version, progressive; below 1 is better than the average.", "model", "task"
)
CALIBRATION = _gauge("calibration", "Predicted over observed positives of the newest version.", "model", "task")
EXAMPLES = _gauge("examples", "Examples that the newest version learnt.", "model")
USERS = _gauge("users", "Users who were active on the newest version's day.", "model")
COVERAGE = _gauge("coverage_ratio", "Share of them who have an embedding.", "model")
SHIFT = _gauge(
    "shift",
    "How far users moved with the newest version, all users: kind (same_inputs, consecutive_days), metric, embedding, "
    "pooling.",
    "model", "kind", "metric", "embedding", "pooling",
)  # fmt: skip
VERDICT = _gauge(
    "gate_verdict", "Of the newest version, by what its rules are about: 0 promote, 1 hold, 2 reject.", "model", "about"
)  # fmt: skip
TRAINING_SECONDS = _gauge("training_seconds", "In the newest day's training loop, all attempts.", "model")
TRAINING_RATE = _gauge(
    "training_examples_per_second", "Examples of the newest day over those seconds, all ranks.", "model"
)
TRAINING_RESUMED = _gauge("training_resumed", "How often the newest day's training was killed and went on.", "model")
ALERTS = _gauge(
    "alerts_open", "Alerts that nobody decided yet, or somebody decided to wait with.", "model", "kind", "severity"
)
OLDEST_ALERT = _gauge(
    "oldest_alert_timestamp_seconds", "When the oldest open alert was raised; 0: none is open.", "model"
)
UNDELIVERED = _gauge("alerts_undelivered", "Alerts that somebody is still to be told of.", "model")
SCHEDULERS = _gauge("schedulers_alive", "Schedulers of Airflow whose hearts beat.")
SCHEDULERS_WANTED = _gauge("schedulers_wanted", "Schedulers that there should be.")
LOST_WORKER = _gauge(
    "edge_worker_lost", "1 for an edge worker that Airflow does not hear of and that did not take its leave.", "worker"
)

ALL = (
    UP, COLLECTED, COLLECTION, VERSIONS, DAY, NEWEST, CHAMPION, DAYS_BEHIND, NE, CALIBRATION, EXAMPLES, USERS, COVERAGE,
    SHIFT, VERDICT, TRAINING_SECONDS, TRAINING_RATE, TRAINING_RESUMED, ALERTS, OLDEST_ALERT, UNDELIVERED,
    SCHEDULERS, SCHEDULERS_WANTED, LOST_WORKER,
)  # fmt: skip
