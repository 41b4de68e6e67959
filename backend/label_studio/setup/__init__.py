"""Projects, connections, and the doctor."""
