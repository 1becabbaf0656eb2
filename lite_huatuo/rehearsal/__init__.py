"""A recipe's whole run on a tiny twin of its base: what would stop the long run stops here, in minutes."""
