"""The paper's experiments, and those that it leaves open: `usermodel experiments …`."""
