"""How a run lives on the host: the loop, its checkpoints, its logs. Above everything that is compiled."""
