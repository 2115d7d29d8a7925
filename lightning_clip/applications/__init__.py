"""What a trained model is for: each application takes a `Predictor`, whatever its weights came from."""
