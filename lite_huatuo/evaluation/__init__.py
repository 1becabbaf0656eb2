"""Exam benchmarks: what is asked, what a reply states, what that is worth, and which of two students is better."""
