"""What the pictures and the page share: participants, lineage, tables and style."""
