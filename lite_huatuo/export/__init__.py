"""From an adapter run to a model anyone can load."""
