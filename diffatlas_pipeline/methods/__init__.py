"""What is trained and how a window is segmented; the trainer and predictor never ask which one they hold."""
