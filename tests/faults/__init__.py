"""What happens when any request of any verb fails: the kill matrix, zombies, and proof that each protection is needed."""
