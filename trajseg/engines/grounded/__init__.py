"""`grounded`, the engine for real video: phrases -> candidate tracks -> a vision language model that chooses."""
