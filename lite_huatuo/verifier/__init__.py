"""Judges of (question, final response, ground truth)."""
