"""The commands beside fit, validate, test and predict: each module adds its arguments and runs."""
