"""The learning loop and joint training: any data set, any checkpoint."""
