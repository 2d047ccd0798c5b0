"""What comes after the runs: curves, figures, tables, one HTML page."""
