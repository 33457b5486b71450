"""Data sets -> tokenized, filtered, fingerprinted, cached splits: the same on every run."""
