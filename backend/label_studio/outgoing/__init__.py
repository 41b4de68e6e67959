"""What Label Studio gets: predictions, pictures, views of tracks."""
