"""Any PyTorch module as a loss."""
