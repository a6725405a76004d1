"""What `learn_to_unlearn` is made of: batches, the two feedbacks, the floor, and checkpoints."""
