"""Linear inverse problems: operators and solvers."""
