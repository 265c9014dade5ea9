"""Result objects to their destinations, and proof that they arrived."""
