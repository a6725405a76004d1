"""Forgetting of samples, with feedback from remaining data and from membership models."""
