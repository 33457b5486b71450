"""What outlives a process: the study database, the ledger and trials as frozen records."""
