"""What to try next and what it may cost: the `nightshift` command, the Optuna study, the budget and the freeze."""
