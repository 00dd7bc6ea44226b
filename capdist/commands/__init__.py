"""What every command of capdist does: arguments, then a function of the lower layers."""
