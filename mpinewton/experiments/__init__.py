"""Comparisons: a grid of methods, data and settings, with its runs, claims, figures and page."""
