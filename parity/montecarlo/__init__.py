"""The criterion without a formula: how far rounding may carry any torch module, by Monte Carlo arithmetic."""
