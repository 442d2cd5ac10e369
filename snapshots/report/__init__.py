"""The day's report: Markdown for the person on call, and an HTML page with plots beside it in MLflow."""

from __future__ import annotations

from snapshots.report.write import Report, read_report, write_report

__all__ = ["Report", "read_report", "write_report"]
