"""The Label Studio side of trajseg: result formats, its API, delivery, project setup and the doctor."""
