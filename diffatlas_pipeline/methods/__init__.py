"""What is trained and how a volume is segmented; the trainer and predictor never ask which one they hold."""
