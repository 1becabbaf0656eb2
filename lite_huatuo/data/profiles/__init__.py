"""Model profiles: what an endpoint accepts, costs and allows, one YAML per model."""
