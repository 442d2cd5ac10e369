"""Run by `infra/bench NAME`; the last line is one JSON object whose `ratio` is to a limit of the same run."""
