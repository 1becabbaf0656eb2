"""Exam questions, problems and examples: where they come from and what becomes of them."""
