"""The daily loop: days and decisions, what was learnt, how far users moved, what waits for a person."""

from __future__ import annotations

from infra.monitoring.panels import RED_AT_ONE, Dashboard, Panel

_M = 'model=~"$model"'
_DECISIONS = (("green", None), ("orange", 1), ("red", 2))

LOOP = Dashboard(
    name="loop",
    title="usermodel loop",
    says="Every day of every user model: decided, learnt, moved, late; and the alerts that are open.",
    models="usermodel_loop_versions",
    since="now-30d",
    refresh="1m",
    rows={
        "Now": (
            Panel(
                title="Days behind", kind="stat", width=4, unit="d", steps=RED_AT_ONE,
                says="Days between the day that was due and the newest promoted one.",
                queries=((f"max by (model) (usermodel_loop_days_behind{{{_M}}})", "{{model}}"),),
            ),
            Panel(
                title="Open alerts", kind="stat", width=4, unit="short", steps=RED_AT_ONE,
                says="Nobody decided them yet, or somebody decided to wait.",
                queries=((f"sum by (model) (usermodel_loop_alerts_open{{{_M}}})", "{{model}}"),),
            ),
            Panel(
                title="Champion", kind="stat", width=4, unit="short",
                says="The version that serves.",
                queries=((f"max by (model) (usermodel_loop_champion_version{{{_M}}})", "{{model}}"),),
            ),
            Panel(
                title="Newest days", kind="stat", width=8, unit="dateTimeAsIso", least=None,
                says="Of data: registered, promoted, held, rejected, and the champion's.",
                queries=(
                    (f"1000 * max by (model, state) (usermodel_loop_day_timestamp_seconds{{{_M}}})",
                     "{{model}} {{state}}"),
                ),
            ),
            Panel(
                title="Sources", kind="stat", width=4, unit="short", names={0: "not read", 1: "read"},
                steps=(("red", None), ("green", 1)),
                says="Whether the last collection could read registry, lake, alert book, checkpoints and Airflow.",
                queries=(("min by (source) (usermodel_loop_up)", "{{source}}"),),
            ),
        ),
        "Airflow": (
            Panel(
                title="Schedulers", unit="short",
                says="Whose hearts beat, and how many there should be.",
                queries=(
                    ("min(usermodel_loop_schedulers_alive)", "alive"),
                    ("max(usermodel_loop_schedulers_wanted)", "wanted"),
                ),
            ),
            Panel(
                title="Lost edge workers", unit="short", most=1,
                says="1 for one that Airflow does not hear of; none where no step runs on other hosts.",
                queries=(("max by (worker) (usermodel_loop_edge_worker_lost)", "{{worker}}"),),
            ),
        ),
        "Decisions": (
            Panel(
                title="Versions by decision", unit="short", stacked=True,
                says="Of all that are registered.",
                queries=(
                    (f"sum by (model, decision) (usermodel_loop_versions{{{_M}}})", "{{model}} {{decision}}"),
                ),
            ),
            Panel(
                title="The newest day's decision", unit="short", most=1,
                says="1 at what was decided of it.",
                queries=((f"max by (model, decision) (usermodel_loop_newest_decision{{{_M}}})",
                          "{{model}} {{decision}}"),),
            ),
            Panel(
                title="What the gate says", kind="stat", unit="short", steps=_DECISIONS,
                names={0: "promote", 1: "hold", 2: "reject"},
                says="Of the newest version, by what its rules are about: the gravest.",
                queries=((f"max by (model, about) (usermodel_loop_gate_verdict{{{_M}}})", "{{model}} {{about}}"),),
            ),
        ),
        "Learning": (
            Panel(
                title="NE by task", unit="short", least=None,
                says="Normalized entropy of the newest version, progressive; below 1 is better than the average.",
                queries=((f"usermodel_loop_ne{{{_M}}}", "{{model}} {{task}}"),),
            ),
            Panel(
                title="Calibration", unit="short", least=None,
                says="Predicted over observed positives.",
                queries=((f"usermodel_loop_calibration{{{_M}}}", "{{model}} {{task}}"),),
            ),
            Panel(
                title="Examples and users of the day", unit="short",
                says="Learnt by the newest version, and active on its day.",
                queries=(
                    (f"usermodel_loop_examples{{{_M}}}", "{{model}} examples"),
                    (f"usermodel_loop_users{{{_M}}}", "{{model}} users"),
                ),
            ),
            Panel(
                title="Training throughput", unit="ops",
                says="Examples per second of the newest day's loop, all ranks.",
                queries=((f"usermodel_loop_training_examples_per_second{{{_M}}}", "{{model}}"),),
            ),
            Panel(
                title="Training time", unit="s",
                says="Of the newest day, all attempts; and how often it went on from a checkpoint.",
                queries=(
                    (f"usermodel_loop_training_seconds{{{_M}}}", "{{model}}"),
                    (f"usermodel_loop_training_resumed{{{_M}}}", "{{model}} resumed"),
                ),
            ),
            Panel(
                title="Users who have an embedding", unit="percentunit", most=1,
                says="Of those who were active on the day.",
                queries=((f"usermodel_loop_coverage_ratio{{{_M}}}", "{{model}}"),),
            ),
        ),
        "Shift": (
            Panel(
                title="Cosine, consecutive days", unit="percentunit", least=None, width=12,
                says="Between a user's embedding and the promoted one of the day before: as computed, and pooled.",
                queries=(
                    (f'usermodel_loop_shift{{{_M}, kind="consecutive_days", metric="cosine_mean"}}',
                     "{{model}} {{embedding}} pooling {{pooling}}"),
                ),
            ),
            Panel(
                title="Change of norm, consecutive days", unit="percentunit", width=12,
                says="The same users' length.",
                queries=(
                    (f'usermodel_loop_shift{{{_M}, kind="consecutive_days", metric="norm_change_mean"}}',
                     "{{model}} {{embedding}} pooling {{pooling}}"),
                ),
            ),
        ),
        "Alerts": (
            Panel(
                title="Open alerts by kind", unit="short", stacked=True, width=12,
                says="Those of the alert book; each has a runbook.",
                queries=(
                    (f"sum by (model, kind, severity) (usermodel_loop_alerts_open{{{_M}}} > 0)",
                     "{{model}} {{kind}} {{severity}}"),
                ),
            ),
            Panel(
                title="Oldest open alert", unit="s", width=4, kind="stat",
                says="How long it has been open.",
                queries=(
                    (f"max by (model) (time() - (usermodel_loop_oldest_alert_timestamp_seconds{{{_M}}} > 0))",
                     "{{model}}"),
                ),
            ),
            Panel(
                title="Alerts that reached nobody", unit="short", width=4, kind="stat", steps=RED_AT_ONE,
                says="Somebody is still to be told.",
                queries=((f"max by (model) (usermodel_loop_alerts_undelivered{{{_M}}})", "{{model}}"),),
            ),
            Panel(
                title="Collection", unit="s", width=4, kind="stat",
                says="How long reading these facts took, and how old they are.",
                queries=(
                    ("usermodel_loop_collection_seconds", "takes"),
                    ("time() - usermodel_loop_collected_timestamp_seconds", "old"),
                ),
            ),
        ),
    },
)  # fmt: skip
