"""What the pictures and the page share: participants, lineage, style and markup."""
