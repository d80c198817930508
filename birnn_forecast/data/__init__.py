"""Cutting series into windows and putting what was estimated in windows together again."""
