"""Evaluation of routed models: honest measures, length control, baselines at equal skip, and their report."""
