"""Training: the one loop, its optimiser and averages, the run folder and its pictures."""
