"""What the clients of the feature store and the HTTP service do."""

from __future__ import annotations

from infra.monitoring.panels import RED_AT_ONE, Dashboard, Panel, quantile

SERVING = Dashboard(
    name="serving",
    title="usermodel serving",
    says="User embeddings served online: requests, freshness, caches and the feature store.",
    models="usermodel_serving_requests_total",
    rows={
        "Requests": (
            Panel(
                title="Answers by origin",
                says="Per second. store: computed for earlier requests; direct: the same, young enough; "
                "realtime: this request's own; failover: earlier ones because that failed; default: zeros.",
                queries=(
                    (
                        'sum by (source) (rate(usermodel_serving_requests_total{model=~"$model"}[R]))',
                        "{{source}}",
                    ),
                ),
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="Read time",
                says="From the question to the answer inside the service, all user models of a request together.",
                queries=(
                    (
                        quantile(0.5, "usermodel_serving_read_seconds"),
                        "p50",
                    ),
                    (
                        quantile(0.99, "usermodel_serving_read_seconds"),
                        "p99",
                    ),
                ),
                unit="s",
            ),
            Panel(
                title="Defaults by reason",
                says="Per second: cold users, and whatever went wrong.",
                queries=(
                    (
                        'sum by (model, reason) (rate(usermodel_serving_defaults_total{model=~"$model"}[R]))',
                        "{{model}} {{reason}}",
                    ),
                ),
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="HTTP answers by status",
                says="Per second.",
                queries=(
                    (
                        "sum by (route, status) (rate(usermodel_http_requests_total[R]))",
                        "{{route}} {{status}}",
                    ),
                ),
                unit="reqps",
            ),
            Panel(
                title="HTTP time",
                says="Inside the service, by route, 99th percentile.",
                queries=(
                    (
                        quantile(0.99, "usermodel_http_request_seconds", by="route"),
                        "{{route}}",
                    ),
                ),
                unit="s",
            ),
            Panel(
                title="HTTP requests in flight",
                says="Requests that are worked on; above the limit they are refused with 503.",
                queries=(("sum by (instance) (usermodel_http_in_flight)", "{{instance}}"),),
                unit="short",
            ),
        ),
        "Freshness": (
            Panel(
                title="Age of the newest features behind an answer",
                says="Defaults have none.",
                queries=(
                    (
                        quantile(0.5, "usermodel_serving_staleness_seconds", by="model", where='model=~"$model"'),
                        "{{model}} p50",
                    ),
                    (
                        quantile(0.9, "usermodel_serving_staleness_seconds", by="model", where='model=~"$model"'),
                        "{{model}} p90",
                    ),
                ),
                unit="s",
                width=12,
            ),
            Panel(
                title="Ages, all answers",
                says="Answers per second by the age of their newest features.",
                queries=(
                    (
                        'sum by (le) (rate(usermodel_serving_staleness_seconds_bucket{model=~"$model"}[R]))',
                        "{{le}}",
                    ),
                ),
                unit="s",
                kind="heatmap",
                width=12,
            ),
        ),
        "Cache": (
            Panel(
                title="Share of answers that are not the default",
                says="Of all answers, by user model.",
                queries=(
                    (
                        '1 - sum by (model) (rate(usermodel_serving_requests_total{model=~"$model", '
                        'source="default"}[R])) / sum by (model) '
                        '(rate(usermodel_serving_requests_total{model=~"$model"}[R]))',
                        "{{model}}",
                    ),
                ),
                unit="percentunit",
                most=1,
            ),
            Panel(
                title="Share of inferences skipped",
                says="Direct cache: the embedding was young enough, and of the version that is served.",
                queries=(
                    (
                        'sum by (model) (rate(usermodel_serving_computations_total{model=~"$model", '
                        'outcome="skipped"}[R])) / sum by (model) '
                        '(rate(usermodel_serving_computations_total{model=~"$model", outcome!="off"}[R]))',
                        "{{model}}",
                    ),
                ),
                unit="percentunit",
                most=1,
            ),
            Panel(
                title="What became of the inferences",
                says="Per second, as requests wanted them. shed: the stream was full; dropped: the "
                "client's buffer was.",
                queries=(
                    (
                        'sum by (outcome) (rate(usermodel_serving_computations_total{model=~"$model"}[R]))',
                        "{{outcome}}",
                    ),
                ),
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="Failover",
                says="Per second: real-time answers out of the failover cache.",
                queries=(
                    (
                        'sum by (model) (rate(usermodel_serving_requests_total{model=~"$model", '
                        'source="failover"}[R]))',
                        "{{model}}",
                    ),
                ),
                unit="reqps",
            ),
            Panel(
                title="Fallbacks",
                says="Per second: real-time requests without their own inference, from the failover cache "
                "or with the default.",
                queries=(
                    (
                        'sum by (model) (rate(usermodel_serving_fallbacks_total{model=~"$model"}[R]))',
                        "{{model}}",
                    ),
                ),
                unit="reqps",
            ),
            Panel(
                title="Given up",
                says="Per second: inferences that nobody will do for this request.",
                queries=(
                    (
                        "sum by (model, outcome) "
                        '(rate(usermodel_serving_computations_total{model=~"$model", '
                        'outcome=~"shed|dropped|rate_limited|future|failed|no_features"}[R]))',
                        "{{model}} {{outcome}}",
                    ),
                ),
                unit="reqps",
                stacked=True,
            ),
        ),
        "Feature store": (
            Panel(
                title="Breaker",
                says="Open: the store is not asked because it failed; answers are defaults.",
                queries=(("usermodel_serving_breaker_open", "{{instance}}"),),
                unit="short",
                kind="stat",
                width=4,
                names={0: "closed", 1: "open"},
                steps=RED_AT_ONE,
            ),
            Panel(
                title="Waiting in the client",
                says="Requests that are not handed to the store yet; lost if the process is killed.",
                queries=(("sum by (instance) (usermodel_serving_buffered_requests)", "{{instance}}"),),
                unit="short",
                width=10,
            ),
            Panel(
                title="Errors",
                says="Per second: of clients, and calls that workers repeated.",
                queries=(
                    ("sum by (error) (rate(usermodel_serving_store_errors_total[R]))", "{{error}}"),
                    ("sum(rate(usermodel_compute_store_errors_total[R]))", "workers"),
                ),
                unit="ops",
                width=10,
            ),
        ),
    },
)
