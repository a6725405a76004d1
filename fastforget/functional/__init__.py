"""What users call on tensors of their own: arguments are checked in their words, then the kernels run."""
