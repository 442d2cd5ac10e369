"""What Prometheus and Grafana are given: rules and dashboards, made from the metrics and the kinds of alerts."""
