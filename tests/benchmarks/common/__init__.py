"""What the benchmarks share. `infra/bench` lists the modules of the folder above only."""
