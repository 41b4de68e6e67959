"""Fine-tuning on corrections, and joint training: any data set, any checkpoint."""
