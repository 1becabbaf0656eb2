"""Judged cases, written for this project: replies meant to fool a verifier, and plain right ones."""
