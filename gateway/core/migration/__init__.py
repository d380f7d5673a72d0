"""Modes, rollout plans, their limits and the statistics behind them."""
