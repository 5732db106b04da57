"""The report of a run: one HTML file with its story and its pictures."""
