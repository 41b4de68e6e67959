"""Label Studio as trajseg meets it: views of tracks, its API, delivery, projects and the doctor."""
