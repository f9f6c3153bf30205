"""What the Azure ML inference server offers to entry scripts."""
