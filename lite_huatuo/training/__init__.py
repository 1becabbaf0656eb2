"""Stage 1 (SFT), stage 2 (PPO) and the parts they are made of."""
