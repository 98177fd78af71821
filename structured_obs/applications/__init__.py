"""What a trained model is good for, beyond its likelihood."""
