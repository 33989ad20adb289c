"""Likelihood: the variational bound, code lengths, the probability-flow ODE and the E-step of mixtures."""
