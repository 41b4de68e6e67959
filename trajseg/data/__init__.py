"""Data sets that trajseg is trained and scored on."""
