"""One recipe in, one adapter out. This room has never heard of Optuna."""
