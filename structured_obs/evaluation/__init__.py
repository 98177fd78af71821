"""How good a trained model is: knows models and variables, nothing of how they were trained."""
