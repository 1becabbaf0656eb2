"""Base models, adapters on them, the value head, tokenizers."""
