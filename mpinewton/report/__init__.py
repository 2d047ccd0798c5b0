"""Figures, tables and the HTML page of runs."""
