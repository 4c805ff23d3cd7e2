"""How data moves on the device: rollout, replay, the train step, evaluation. Pure, unbatched over members."""
