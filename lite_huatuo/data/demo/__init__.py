"""The data the demo trains on, written for this project."""
