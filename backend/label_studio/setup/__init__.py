"""Project setup, connections and the doctor."""
