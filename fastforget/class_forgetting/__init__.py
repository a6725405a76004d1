"""What `one_shot` is made of: the codes as a batch, what the parameters mean to them, the rules, and staged steps."""
