"""The programs that move the atoms of a model: what the way there costs, and that the guard stops them."""
