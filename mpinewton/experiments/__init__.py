"""A grid of methods, data and settings: its runs, its claims, its figures and its page."""
