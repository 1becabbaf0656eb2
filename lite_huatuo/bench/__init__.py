"""`lite-huatuo bench --card`: what a graphics card does with this program, beside what `plan` predicts for it."""
