"""What a machine has and what a recipe needs."""
