"""The pages of a report: `report.html`, `diagnosis.html` and their tables."""
