"""What a recipe costs before it runs: parameters, memory and time, in closed form (no torch) and simulated (torch)."""
