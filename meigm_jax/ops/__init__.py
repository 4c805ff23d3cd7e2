"""Pure maths without parameters."""
