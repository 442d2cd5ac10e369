"""Self-contained HTML pages with plots: no script, nothing loaded, every text escaped."""
