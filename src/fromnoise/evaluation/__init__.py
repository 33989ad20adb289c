"""Evaluation of models and samples against real images: metrics, checks and reports."""
