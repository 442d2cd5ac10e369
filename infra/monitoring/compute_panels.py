"""What computes behind the requests: the compute center, and precomputation of pairs (SOLARIS)."""

from __future__ import annotations

from infra.monitoring.panels import GREEN_AT_ONE, Dashboard, Panel, quantile

COMPUTE = Dashboard(
    name="compute",
    title="usermodel compute",
    says="The compute center and the precomputation of pairs: queues, rates, champions, refusals.",
    models="usermodel_compute_champion_version",
    rows={
        "Compute center": (
            Panel(
                title="Workers",
                says="1 while it has a champion to compute with.",
                queries=(("usermodel_compute_up", "{{instance}}"),),
                unit="short",
                kind="stat",
                width=4,
                names={0: "no champion", 1: "up"},
                steps=GREEN_AT_ONE,
            ),
            Panel(
                title="Champion",
                says="The version that computes.",
                queries=(('max by (model) (usermodel_compute_champion_version{model=~"$model"})', "{{model}}"),),
                unit="short",
                kind="stat",
                width=4,
            ),
            Panel(
                title="Queue",
                says="Users on the stream of requests.",
                queries=(("max by (source) (usermodel_compute_queue_length)", "{{source}}"),),
                unit="short",
            ),
            Panel(
                title="Oldest request",
                says="How long the oldest user on the stream has waited.",
                queries=(("max by (source) (usermodel_compute_queue_oldest_seconds)", "{{source}}"),),
                unit="s",
            ),
            Panel(
                title="Users computed",
                says="Per second and model: computed, kept by the store, older than all it keeps.",
                queries=(
                    (
                        'sum by (model) (rate(usermodel_compute_computed_total{model=~"$model"}[R]))',
                        "{{model}} computed",
                    ),
                    (
                        'sum by (model) (rate(usermodel_compute_written_total{model=~"$model"}[R]))',
                        "{{model}} kept",
                    ),
                    (
                        'sum by (model) (rate(usermodel_compute_late_total{model=~"$model"}[R]))',
                        "{{model}} late",
                    ),
                ),
                unit="ops",
            ),
            Panel(
                title="From request to embedding",
                says="From a request's arrival on the stream to its vectors in the store.",
                queries=(
                    (
                        quantile(0.5, "usermodel_compute_latency_seconds"),
                        "p50",
                    ),
                    (
                        quantile(0.99, "usermodel_compute_latency_seconds"),
                        "p99",
                    ),
                ),
                unit="s",
            ),
            Panel(
                title="Users per micro-batch",
                says="On average; one user is computed once per batch.",
                queries=(
                    (
                        "sum(rate(usermodel_compute_received_total[R])) / "
                        "sum(rate(usermodel_compute_batches_total[R]))",
                        "taken",
                    ),
                    (
                        "sum(rate(usermodel_compute_coalesced_total[R])) / "
                        "sum(rate(usermodel_compute_batches_total[R]))",
                        "twice in a batch",
                    ),
                ),
                unit="short",
            ),
            Panel(
                title="Time spent computing",
                says="Share of a worker's time.",
                queries=(("rate(usermodel_compute_busy_seconds_total[R])", "{{instance}}"),),
                unit="percentunit",
                most=1,
            ),
            Panel(
                title="Requests taken and done",
                says="Per second: off the stream, done, taken over from dead workers, delivered too often "
                "and set aside.",
                queries=(
                    ("sum(rate(usermodel_compute_received_total[R]))", "taken"),
                    ("sum(rate(usermodel_compute_done_total[R]))", "done"),
                    ("sum(rate(usermodel_compute_claimed_total[R]))", "taken over"),
                    ("sum(rate(usermodel_compute_set_aside_total[R]))", "set aside"),
                ),
                unit="ops",
            ),
            Panel(
                title="Not computed",
                says="Per second: users that could not be computed, by reason, and batches left for another try.",
                queries=(
                    ("sum by (reason) (rate(usermodel_compute_refused_total[R]))", "{{reason}}"),
                    ("sum(rate(usermodel_compute_failed_total[R]))", "batches failed"),
                ),
                unit="ops",
            ),
            Panel(
                title="Champions",
                says="In the last hour: put to work, refused because they are damaged, and looks at the "
                "registry that failed.",
                queries=(
                    ("sum by (model) (increase(usermodel_compute_swaps_total[1h]))", "{{model}} swapped"),
                    ("sum by (model) (increase(usermodel_compute_champions_refused_total[1h]))", "{{model}} refused"),
                    (
                        "sum by (model) (increase(usermodel_compute_registry_errors_total[1h]))",
                        "{{model}} registry errors",
                    ),
                ),
                unit="short",
            ),
        ),
        "Pairs": (
            Panel(
                title="Pairs served",
                says="Of a second's, by level: exact is a hit, zero is not covered.",
                queries=(("sum by (level) (rate(usermodel_pairs_served_total[R]))", "{{level}}"),),
                unit="short",
            ),
            Panel(
                title="Reads of pairs",
                says="Per second, by outcome.",
                queries=(
                    ("sum by (outcome) (rate(usermodel_pairs_requests_total[R]))", "{{outcome}}"),
                    ("sum(rate(usermodel_pairs_store_errors_total[R]))", "errors behind"),
                    ("max(usermodel_pairs_breaker_open)", "breaker open"),
                ),
                unit="ops",
            ),
            Panel(
                title="Age of exact pairs",
                says="Since they were written.",
                queries=(
                    (
                        quantile(0.5, "usermodel_pairs_age_seconds"),
                        "p50",
                    ),
                    (
                        quantile(0.99, "usermodel_pairs_age_seconds"),
                        "p99",
                    ),
                ),
                unit="s",
            ),
            Panel(
                title="Pairs handed on",
                says="Per second, by what became of them; refreshes are exact pairs nearing the end of their time.",
                queries=(
                    ("sum by (outcome) (rate(usermodel_pairs_enqueued_total[R]))", "{{outcome}}"),
                    ("sum(rate(usermodel_pairs_refreshes_total[R]))", "refreshes"),
                    ("sum by (outcome) (rate(usermodel_pairs_logged_total[R]))", "logged {{outcome}}"),
                ),
                unit="ops",
            ),
            Panel(
                title="Known and waiting in the readers",
                says="Items with a neighbours' mean; pairs that are not handed to the store yet.",
                queries=(
                    ("sum by (instance) (usermodel_pairs_known_neighbours)", "known {{instance}}"),
                    ("sum by (instance) (usermodel_pairs_buffered)", "waiting {{instance}}"),
                ),
                unit="short",
            ),
            Panel(
                title="Queue of pairs",
                says="In all; a queue that is full sheds the least likely.",
                queries=(
                    ("max(usermodel_solaris_queue_length)", "waiting"),
                    ("max(usermodel_solaris_leased)", "worked on"),
                    ("max(usermodel_solaris_aside)", "set aside"),
                    ("sum(usermodel_solaris_up)", "workers"),
                ),
                unit="short",
            ),
            Panel(
                title="Pairs computed",
                says="Per second, over all workers.",
                queries=(
                    ("sum(rate(usermodel_solaris_taken_total[R]))", "taken"),
                    ("sum(rate(usermodel_solaris_computed_total[R]))", "computed"),
                    ("sum(rate(usermodel_solaris_written_total[R]))", "written"),
                    ("sum(rate(usermodel_solaris_dropped_total[R]))", "dropped"),
                    ("sum(rate(usermodel_solaris_done_total[R]))", "done"),
                    ("sum(rate(usermodel_solaris_batches_total[R]))", "batches"),
                ),
                unit="ops",
            ),
            Panel(
                title="Pairs not computed",
                says="Per second: why, and what is left for another try.",
                queries=(
                    ("sum by (reason) (rate(usermodel_solaris_refused_total[R]))", "{{reason}}"),
                    ("sum(rate(usermodel_solaris_failed_total[R]))", "failed"),
                    ("sum(rate(usermodel_solaris_taken_over_total[R]))", "taken over"),
                    ("sum(rate(usermodel_solaris_set_aside_total[R]))", "set aside"),
                    ("sum(rate(usermodel_solaris_store_errors_total[R]))", "store errors"),
                ),
                unit="ops",
            ),
            Panel(
                title="From a batch's taking to the store",
                says="And the share of a second that the foundation model computes.",
                queries=(
                    (
                        quantile(0.99, "usermodel_solaris_batch_seconds"),
                        "p99",
                    ),
                    (
                        "sum by (instance) (rate(usermodel_solaris_busy_seconds_total[R]))",
                        "busy {{instance}}",
                    ),
                ),
                unit="s",
            ),
        ),
    },
)
