"""Evaluation of trained models: scores, reports and figures, independent of how they were trained."""
