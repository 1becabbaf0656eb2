"""The shipped recipes: one YAML per student, both stages."""
