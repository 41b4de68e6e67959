"""What Label Studio sends: requests, annotations, corrections."""
