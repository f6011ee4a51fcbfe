"""Fingerprint, rules, planner, network topology, choice of diffusion steps; the plan."""
